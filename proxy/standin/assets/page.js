/* Follows what arrives: fetches the page again and puts the new events on top. */
(function () {
  "use strict";
  var list = document.getElementById("events");
  var count = document.getElementById("count");
  var number = function (article) { return Number(article.dataset.number); };
  var articles = function (root) { return Array.from(root.querySelectorAll("article")); };

  async function follow() {
    var text = await (await fetch(location.href)).text();
    var page = new DOMParser().parseFromString(text, "text/html");
    var seen = Math.max.apply(null, [0].concat(articles(list).map(number)));
    var fresh = articles(page).filter(function (article) { return number(article) > seen; });
    count.textContent = page.getElementById("count").textContent;
    if (fresh.length) list.querySelectorAll(".empty").forEach(function (note) { note.remove(); });
    list.prepend.apply(list, fresh);
    articles(list).slice(Number(list.dataset.shown)).forEach(function (old) { old.remove(); });
  }

  async function loop() {
    try {
      if (!document.hidden) await follow();
    } catch (error) {
      count.textContent = "no answer";
    }
    setTimeout(loop, 1500);
  }

  document.getElementById("send").addEventListener("click", async function () {
    await fetch("/e/", {
      method: "POST",
      headers: { "Content-Type": "text/plain" },
      body: JSON.stringify({
        event: "sent from the page", token: list.dataset.token, distinct_id: "visitor",
        timestamp: new Date().toISOString(), properties: { $current_url: location.href }
      })
    });
    await follow();
  });
  setTimeout(loop, 1500);
})();
