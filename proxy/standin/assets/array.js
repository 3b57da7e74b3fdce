/* A very small posthog-js for the stand-in: init, capture, identify and the snippet's queue.
   With posthog-js installed (npm), the stand-in serves the real one instead. */
(function () {
  "use strict";
  function uuid() {
    return crypto.randomUUID ? crypto.randomUUID()
      : "10000000-1000-4000-8000-100000000000".replace(/[018]/g, function (c) {
          return (c ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (c / 4)))).toString(16);
        });
  }
  function Small() { this.id = uuid(); }
  Small.prototype.init = function (token, config) {
    this.token = token;
    this.host = ((config && config.api_host) || location.origin).replace(/\/+$/, "");
    this.capture("$pageview", { $current_url: location.href, title: document.title });
    if (config && typeof config.loaded === "function") config.loaded(this);
    return this;
  };
  Small.prototype.capture = function (event, properties) {
    var body = JSON.stringify({
      event: event, uuid: uuid(), token: this.token, distinct_id: this.id,
      timestamp: new Date().toISOString(),
      properties: Object.assign({ token: this.token, distinct_id: this.id, $lib: "stand-in" }, properties)
    });
    return fetch(this.host + "/e/?_=" + Date.now(), {
      method: "POST", headers: { "Content-Type": "text/plain" }, body: body, keepalive: true
    });
  };
  Small.prototype.identify = function (id, properties) {
    var before = this.id;
    this.id = id;
    return this.capture("$identify", { $anon_distinct_id: before, $set: properties || {} });
  };
  var queue = window.posthog || [];
  var small = new Small();
  (queue._i || []).forEach(function (call) { small.init(call[0], call[1]); });
  Array.prototype.forEach.call(queue, function (call) {
    if (Array.isArray(call) && typeof small[call[0]] === "function") small[call[0]].apply(small, call.slice(1));
  });
  window.posthog = small;
})();
