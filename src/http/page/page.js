// The status page: shows what /v1/events says each second, and /v1/history once a minute.
"use strict";

const UNKNOWN = "unknown";
const TONES = {
  streaming: "good", paused: "watch", copying: "watch", starting: "unknown", waiting: "unknown",
  retrying: "watch", halted: "bad", fenced: "bad", stopped: "unknown",
};
/** A sign besides the colour. */
const SIGNS = {
  streaming: "▶", paused: "❙❙", copying: "◐", starting: "…", waiting: "‖", retrying: "↻", halted: "■", fenced: "⊘", stopped: "□",
};
/** Followers drawn in the picture; the table has all. */
const DRAWN_MAX = 8;
/** Without an event for so long the page says that it is not live. */
const QUIET_MAX_MS = 5000;

const at = (id) => document.getElementById(id);
let before = null;
let history = { every_seconds: 10, sinks: [] };
let heardAt = 0;

/** An element with text and children; everything from walferry goes in as text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return `${minutes} min ${whole % 60} s`;
}

const count = (number) => Math.round(number).toLocaleString("en-US");

/** Counts a second since the last event; none before there are two. */
function rate(now, then, seconds) {
  if (then === undefined || !(seconds > 0) || now < then) return null;
  return (now - then) / seconds;
}

const perSecond = (value) => (value === null ? "–" : `${count(value)}/s`);

function state(part, now) {
  const chip = make("span", { class: `state ${TONES[part.state]}` }, `${SIGNS[part.state]} ${part.state}`);
  if (part.since_unix_seconds === null || part.state === "streaming") return [chip];
  return [chip, make("span", { class: "since" }, `for ${span(now - part.since_unix_seconds)}`)];
}

const LEVELS = ["good", "watch", "unknown", "bad"];

/** Worst first, as the headline does; then by name. */
function worstFirst(a, b) {
  return LEVELS.indexOf(b.standing) - LEVELS.indexOf(a.standing)
    || (a.standing === "good" ? 0 : (b.lag.seconds ?? 0) - (a.lag.seconds ?? 0))
    || a.name.localeCompare(b.name);
}

function verdict(report) {
  at("verdict").className = report.verdict.level;
  if (at("headline").textContent !== report.verdict.headline) at("headline").textContent = report.verdict.headline;
  const facts = report.verdict.facts.map((fact) =>
    make("li", {}, fact.text, fact.remedy ? make("span", { class: "remedy" }, fact.remedy) : null));
  // Read aloud only when it says something else.
  const said = facts.map((fact) => fact.textContent).join("\n");
  if (at("facts").dataset.said !== said) {
    at("facts").dataset.said = said;
    at("facts").replaceChildren(...facts);
  }
  document.title = `${report.verdict.level === "good" ? "" : "! "}walferry ${report.pipeline}`;
}

function node(id, name, tones, ...lines) {
  at(id).className = `node ${tones}`;
  at(id).replaceChildren(make("h3", {}, name), ...lines.filter(Boolean).map((line) => make("p", {}, line)));
}

function flow(report) {
  const source = report.source;
  const slot = source?.slot;
  node("leader-node", "Leader", source ? (slot ? "good" : "unknown") : "unknown",
    source?.leader_flush ? `WAL at ${source.leader_flush}` : (source ? "not to be asked" : "the source runs elsewhere"),
    slot ? `keeps ${size(slot.retained_bytes)} for the slot` : null);
  const edge = at("leader-edge");
  edge.className = `edge ${source ? TONES[source.state] : "unknown"}`;
  if (source) {
    const age = source.entry_at_us === null ? null : Math.max(0, report.now_unix_seconds - source.entry_at_us / 1e6);
    edge.replaceChildren(make("b", {}, size(source.unpublished_bytes)), ` ${SIGNS[source.state]} ${source.state}`,
      age === null ? "" : `, last entry ${span(age)} ago`);
  } else {
    edge.replaceChildren(make("b", {}, UNKNOWN));
  }
  node("kafka-node", "Kafka", source && source.state !== "streaming" ? "unknown" : "good",
    source?.published ? `published to ${source.published}` : null);

  const branches = report.sinks.slice(0, DRAWN_MAX).map((sink) => make("li", {},
    make("div", { class: `edge ${sink.standing}` }, make("b", {}, size(sink.lag.bytes)), ` behind for ${span(sink.lag.seconds)}`),
    make("div", { class: `node ${sink.standing}` }, make("h3", {}, sink.name), make("p", {}, `${SIGNS[sink.state]} ${sink.state}`))));
  if (report.sinks.length > DRAWN_MAX) {
    branches.push(make("li", { class: "more" }, `and ${report.sinks.length - DRAWN_MAX} more below`));
  }
  at("branches").replaceChildren(...branches);
}

const SVG = "http://www.w3.org/2000/svg";

/** Lag in seconds over the last hour; gaps where it is not known. */
function spark(name) {
  const values = history.sinks.find((sink) => sink.name === name)?.lag_seconds ?? [];
  const known = values.filter((value) => value !== null);
  const top = Math.max(1, ...known);
  const svg = document.createElementNS(SVG, "svg");
  const said = known.length === 0 ? "lag of the last hour: nothing known" : `lag of the last hour: at most ${span(Math.max(...known))}`;
  for (const [key, value] of Object.entries({ class: "spark", viewBox: "0 0 360 40", preserveAspectRatio: "none", role: "img", "aria-label": said })) {
    svg.setAttribute(key, value);
  }
  const line = (d, kind) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    if (kind) path.setAttribute("class", kind);
    svg.append(path);
  };
  line("M0 39.5H360", "ground");
  const steps = Math.max(1, Math.round(3600 / history.every_seconds));
  let path = "";
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = (360 * (steps - values.length + index + 1)) / steps;
    path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${(39 - (37 * value) / top).toFixed(1)}`;
    if (!drawing) path += "h0.1";
    drawing = true;
  });
  if (path) line(path);
  return [svg, make("span", { class: "spark-top" }, known.length === 0 ? "nothing known" : `≤ ${span(Math.max(...known))}`)];
}

function cell(head, kind, ...children) {
  return make("td", { class: kind, "data-head": head }, ...children);
}

function table(report, seconds) {
  const rows = report.sinks.flatMap((sink) => {
    const old = before?.sinks.find((then) => then.name === sink.name);
    const row = make("tr", { "data-sink": sink.name },
      make("th", { scope: "row" }, sink.name),
      cell("State", "", make("span", {}, ...state(sink, report.now_unix_seconds))),
      cell("Lag", "number", size(sink.lag.bytes)),
      cell("Behind for", "number", span(sink.lag.seconds)),
      cell("Last hour", "", make("span", {}, ...spark(sink.name))),
      cell("Staleness", "number", span(sink.lag.staleness_seconds)),
      cell("Changes/s", "number", perSecond(rate(sink.changes, old?.changes, seconds))),
      cell("Kafka keeps", "number", sink.lag.retention_headroom_seconds === null ? "–" : span(sink.lag.retention_headroom_seconds)),
      cell("Applied", "number", sink.applied ?? UNKNOWN));
    if (!sink.last_error) return [row];
    const stands = sink.state !== "streaming" && sink.state !== "copying";
    const problem = make("tr", { class: `problem ${stands ? TONES[sink.state] : ""}` }, make("td", { colspan: "9" },
      `${stands ? "" : "Last error, "}${new Date(sink.last_error.at_unix_seconds * 1000).toLocaleString()}: ${sink.last_error.what}`,
      stands && sink.last_error.remedy ? make("span", { class: "remedy" }, sink.last_error.remedy) : null));
    return [row, problem];
  });
  at("sinks").tBodies[0].replaceChildren(...rows);
  at("sinks").hidden = report.sinks.length === 0;
  at("no-sinks").hidden = report.sinks.length > 0;
}

function copies(report) {
  const parts = [report.source, ...report.sinks].filter(Boolean);
  const items = parts.flatMap((part) => part.copies.filter((copy) => !copy.done).map((copy) => {
    const known = copy.rows_estimate !== null && copy.rows_estimate > 0;
    const label = `${part.name}: ${copy.table}`;
    return make("li", {}, `${label}, ${count(copy.rows)}${known ? ` of about ${count(copy.rows_estimate)}` : ""} rows `,
      known ? make("progress", { max: copy.rows_estimate, value: Math.min(copy.rows, copy.rows_estimate), "aria-label": label }) : null);
  }));
  at("copies-part").hidden = items.length === 0;
  at("copies").replaceChildren(...items);
}

function source(report, seconds) {
  const it = report.source;
  at("source-part").hidden = !it;
  if (!it) return;
  const old = before?.source ?? undefined;
  const slot = it.slot;
  const rows = [
    ["State", make("span", {}, ...state(it, report.now_unix_seconds))],
    ["Transactions", perSecond(rate(it.transactions, old?.transactions, seconds))],
    ["Changes", perSecond(rate(it.changes, old?.changes, seconds))],
    ["Into Kafka", rate(it.bytes, old?.bytes, seconds) === null ? "–" : `${size(Math.round(rate(it.bytes, old?.bytes, seconds)))}/s`],
    ["WAL received", it.received ?? UNKNOWN],
    ["Published", it.published ?? UNKNOWN],
    ["Confirmed to the slot", it.confirmed ?? UNKNOWN],
    ["Slot", slot ? `${slot.active ? "active" : "not active"}, WAL ${slot.wal_status ?? UNKNOWN}` : UNKNOWN],
    ["The slot keeps", slot ? size(slot.retained_bytes) : UNKNOWN],
    ["Until the slot loses WAL", slot ? (slot.safe_bytes === null ? "no limit set" : size(slot.safe_bytes)) : UNKNOWN],
    ["Clock against the leader's", it.clock_offset_us === null ? UNKNOWN : `${Math.round(it.clock_offset_us / 1000) || 0} ms`],
    ["Epoch", it.epoch ?? UNKNOWN],
  ];
  at("source").replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function show(report) {
  const seconds = before ? report.now_unix_seconds - before.now_unix_seconds : 0;
  at("pipeline").textContent = report.pipeline;
  report.sinks.sort(worstFirst);
  verdict(report);
  flow(report);
  table(report, seconds);
  copies(report);
  source(report, seconds);
  before = report;
}

async function refreshHistory() {
  try {
    const answer = await fetch("/v1/history");
    if (answer.ok) history = await answer.json();
  } catch {
    // The lost connection is said already; the old lines stay.
  }
}

function live(is) {
  const text = is ? "● live" : "○ no answer from walferry: what is shown is old";
  if (!is && before) {
    // Nothing old may look well.
    at("verdict").className = "unknown";
    at("headline").textContent = "walferry does not answer: this is what it said last";
  }
  at("connection").className = is ? "" : "lost";
  if (at("connection").textContent !== text) at("connection").textContent = text;
}

async function begin() {
  at("command").textContent = `walferry status --json --url ${location.origin}`;
  at("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(at("command").textContent);
      at("copied").textContent = "copied";
    } catch {
      getSelection().selectAllChildren(at("command"));
      at("copied").textContent = "marked: copy it with the keyboard";
    }
  });
  await refreshHistory();
  setInterval(refreshHistory, 60000);
  const events = new EventSource("/v1/events");
  events.addEventListener("status", (event) => {
    heardAt = Date.now();
    live(true);
    show(JSON.parse(event.data));
  });
  events.addEventListener("error", () => live(false));
  setInterval(() => live(Date.now() - heardAt < QUIET_MAX_MS), 1000);
}

begin();
