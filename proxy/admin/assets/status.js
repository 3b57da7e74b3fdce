"use strict";
const SVG = "http://www.w3.org/2000/svg";
const CLASSES = {
  ingest_v0: "events", ingest_v1: "events (v1)", replay: "session replay", flags: "feature flags",
  sdk_read: "SDK files and settings", bearer_read: "reads with a key", stream: "streams", public: "public pages",
  protected: "web app", never: "never forwarded", refused: "no request",
};
const SOURCES = {
  peer: "the connection itself", proxy_protocol: "PROXY protocol", x_forwarded_for: "X-Forwarded-For",
  forwarded: "Forwarded", header: "the CDN’s header", unix: "Unix socket",
};

function put(name, attributes = {}, ...inner) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inner.filter((each) => each !== null && each !== ""));
  return element;
}

function count(value) {
  return value.toLocaleString("en-US");
}

function rate(value) {
  return value >= 100 ? count(Math.round(value)) : value >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/\.?0+$/, "");
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1\u00a0%";
  return share === null ? "–" : `${(share * 100).toFixed(share > 0.1 && share < 0.995 ? 0 : 1).replace(/\.0$/, "")}\u00a0%`;
}

function time(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`;
}

function span(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.floor(seconds)} s`;
}

function sparkline(values) {
  const high = Math.max(...values, 0.001);
  const step = 100 / Math.max(values.length - 1, 1);
  const points = values.map((value, at) => `${(at * step).toFixed(2)},${(29 - (value / high) * 27).toFixed(2)}`);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `highest ${rate(Math.max(...values, 0))} a second`);
  for (const [name, list] of [["polygon", ["0,30", ...points, "100,30"]], ["polyline", points]]) {
    const shape = document.createElementNS(SVG, name);
    shape.setAttribute("points", list.join(" "));
    svg.append(shape);
  }
  return svg;
}

function table(head, rows) {
  const line = (cell) => (cells) => put("tr", {}, ...cells.map((each) => (each instanceof Element && each.tagName === "TD" ? each : put(cell, {}, each))));
  return put("table", {}, ...(head ? [line("th")(head)] : []), ...rows.map(line("td")));
}

function card(title, size, ...inner) {
  return put("section", { class: size, "aria-label": title }, put("h2", {}, title), ...inner);
}

function big(label, value, kind = "") {
  return put("div", {}, put("b", kind ? { class: kind } : {}, value), put("span", { class: "soft" }, label));
}

function fact(label, value) {
  return put("li", {}, put("span", {}, `${label} `), String(value));
}

function warnings(all, now) {
  if (!all.length) return null;
  return card("What to change", "", ...all.map((each) =>
    put("div", { class: "warning" },
      put("b", { class: "bad" }, each.event.replaceAll("_", " ")),
      put("span", { class: "soft" }, ` ${span(Math.max(0, now - each.at))} ago`),
      put("p", {}, each.cure),
      put("p", { class: "soft" }, Object.entries(each.about).filter(([, value]) => value).map(([key, value]) => `${key} ${value}`).join(" · ")))));
}

function upstream(each) {
  const breaker = Object.entries(each.breaker).map(([state, n]) => (n > 1 ? `${state} in ${n}` : state)).join(", ");
  return put("div", { class: "upstream" },
    put("h3", {}, `${each.name} `, put("span", { class: each.up ? "good" : "bad" }, each.up ? "up" : "down")),
    put("p", { class: "soft" }, each.url),
    each.reason ? put("p", { class: "bad" }, each.reason) : null,
    put("ul", { class: "facts" },
      fact("half within", time(each.p50)), fact("95 % within", time(each.p95)),
      fact("connections idle", each.idle), fact("busy", each.in_use), fact("waiting", each.waiting),
      fact("breaker", (breaker || "–").replaceAll("_", " ")), fact("sent again", count(each.retries)), fact("failures", count(each.failures))));
}

function shares(all, names) {
  const total = all.reduce((sum, each) => sum + each.total, 0) || 1;
  return table(null, all.map((each) => [names[each.name] || each.name, put("td", { class: "wide" }, put("progress", { max: total, value: each.total, "aria-label": names[each.name] || each.name })), percent(each.total / total)]));
}

function draw(now) {
  const failing = now.statuses.filter((each) => each.code === "5xx").reduce((sum, each) => sum + each.per_second, 0);
  const state = document.getElementById("state");
  state.textContent = now.state;
  state.className = now.state === "ready" ? "good" : "bad";
  const workers = now.workers > 1 ? ` · ${now.workers} workers` : "";
  document.getElementById("live").textContent = `${now.version} · up ${span(now.uptime)}${workers}`;
  document.getElementById("main").replaceChildren(...[
    put("section", { class: "bare big", "aria-label": "now" },
      big("event requests / s", rate(now.requests.events_per_second)),
      big("all requests / s", rate(now.requests.per_second)),
      big("5xx / s", rate(failing), failing ? "bad" : ""),
      big("on the fast path", percent(now.fast_path.share)),
      big("in flight", count(now.requests.in_flight))),
    now.last_reload ? null : card("Configuration", "", put("p", { class: "bad" }, "The last reload was refused; the configuration of before is in use. The error log says why (reload_failed).")),
    warnings(now.warnings, now.now),
    card("Requests by class", "", now.classes.length
      ? table(["class", "a second", put("td", { class: "wide soft" }, "last minute and a half"), "in all"], now.classes.map((each) => [
          CLASSES[each.name] || each.name, rate(each.per_second), put("td", { class: "wide" }, sparkline(each.spark)), count(each.total)]))
      : put("p", { class: "soft" }, "Nothing has come yet.")),
    card("Upstreams", "half", ...now.upstreams.map(upstream)),
    card("Answers", "half", table(["status", "a second", "in all"], now.statuses.map((each) => [
      each.code === "none" ? "client left" : each.code, rate(each.per_second), count(each.total)]))),
    card("How client addresses are known", "half", shares(now.client_sources, SOURCES),
      now.suspect_clients ? put("p", { class: "soft" }, `With a private address: ${count(now.suspect_clients)}`) : null),
    now.rejected.length ? card("Refused or cut", "half", table(null, now.rejected.map((each) => [each.name.replaceAll("_", " "), count(each.total)]))) : null,
    now.cache.total ? card("Asset cache", "half", put("p", {}, `${percent(now.cache.share)} of ${count(now.cache.total)} requests answered from memory`)) : null,
    now.spool ? card("Spool", "half", put("ul", { class: "facts" }, fact("requests", count(now.spool.requests)), fact("bytes", count(now.spool.bytes)), fact("oldest", span(now.spool.oldest_seconds)), fact("dead letters", count(now.spool.dead_letters)))) : null,
    now.certificates.length ? card("Certificates", "half", table(null, now.certificates.map((each) => [
      each.name, put("td", { class: each.days_left < 14 ? "bad" : "good" }, `${each.days_left} days left`)]))) : null,
  ].filter((each) => each !== null));
  document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
}

draw(JSON.parse(document.getElementById("figures").textContent));
const events = new EventSource("/status/events");
events.onmessage = (event) => draw(JSON.parse(event.data));
events.onerror = () => {
  const state = document.getElementById("state");
  state.textContent = "not answering";
  state.className = "bad";
};
