"use strict";
/* Draws the charts and the browser of traces. What models said only ever becomes text nodes. */

const byId = (id) => document.getElementById(id);

async function unpacked(what) {
  const packed = byId("data-" + what).textContent;
  if (!packed) return "";
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function element(tag, classes, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/* charts */

async function drawCharts() {
  const library = await unpacked("library");
  if (!library) return;
  const charts = JSON.parse(await unpacked("charts"));
  if (!charts.length) return;
  const script = document.createElement("script");
  script.nonce = byId("program").nonce;
  script.textContent = library;
  document.head.append(script);
  const draw = () => document.querySelectorAll(".chart").forEach((place) => {
    const { section, number } = place.dataset;
    drawChart(place, charts.filter((chart) => chart.section === section)[number]);
  });
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

function drawChart(place, chart) {
  const style = getComputedStyle(document.documentElement);
  const variable = (name) => style.getPropertyValue(name).trim();
  const colour = (n) => (typeof n === "number" ? variable("--c" + (n % 6)) : n);
  const axis = { exponentformat: "none", separatethousands: true, gridcolor: variable("--line"), linecolor: variable("--line"), zerolinecolor: variable("--line"), automargin: true };
  const data = chart.data.map((trace) => {
    const drawn = structuredClone(trace);
    for (const part of ["marker", "line"]) {
      if (!drawn[part]) continue;
      const given = drawn[part].color;
      drawn[part].color = Array.isArray(given) ? given.map(colour) : colour(given);
    }
    if (drawn.error_y) drawn.error_y.color = variable("--soft");
    return drawn;
  });
  const layout = {
    ...chart.layout,
    xaxis: { ...axis, ...chart.layout.xaxis },
    yaxis: { ...axis, ...chart.layout.yaxis },
    margin: { l: 46, r: 12, t: 38, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12.5, color: variable("--ink") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    showlegend: chart.layout.showlegend ?? chart.data.length > 1,
    bargap: 0.28,
    hoverlabel: { font: { family: "system-ui, sans-serif" } },
  };
  Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
}

/* traces */

const ROW = 62;
const SHARED = 0.3; /* Changes are marked if at least this part of the shorter text stayed. */
const state = { all: [], found: [], chosen: -1, texts: [] };

async function browse() {
  state.all = JSON.parse(await unpacked("traces"));
  state.texts = new Array(state.all.length);
  offer("stage", state.all.map((trace) => trace.stage));
  offer("outcome", state.all.map((trace) => trace.outcome));
  offer("tries", state.all.map((trace) => String(trace.tries)));
  for (const id of ["stage", "outcome", "tries"]) byId(id).addEventListener("change", filter);
  let waiting = 0;
  byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  byId("marks").addEventListener("change", show);
  byId("list").addEventListener("scroll", () => requestAnimationFrame(fill));
  byId("list").addEventListener("keydown", move);
  byId("list").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) choose(Number(row.dataset.at), true);
  });
  addEventListener("hashchange", openLinked);
  addEventListener("resize", fill);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  filter();
  openLinked();
}

/* Links to one trace: #trace-ID, or #trace-STAGE/ID where several stages worked on the question; both parts URL-encoded. */

const linkTo = (trace) => "#trace-" + encodeURIComponent(trace.stage) + "/" + encodeURIComponent(trace.id);

function openLinked() {
  if (!location.hash.startsWith("#trace-")) return;
  let parts;
  try { parts = location.hash.slice("#trace-".length).split("/").map(decodeURIComponent); } catch { return; }
  const id = parts.at(-1), stage = parts.length > 1 ? parts[0] : null;
  const fits = (n) => state.all[n].id === id && (stage === null || state.all[n].stage === stage);
  if (state.all.findIndex((_, n) => fits(n)) < 0) {
    byId("trace").replaceChildren(element("p", "warn", `No trace of question ${id} is on this page.`));
    byId("trace").scrollIntoView();
    return;
  }
  if (state.found.findIndex(fits) < 0) {
    for (const name of ["search", "stage", "outcome", "tries"]) byId(name).value = "";
    filter();
  }
  choose(state.found.findIndex(fits), true);
  byId("trace").scrollIntoView();
}

function offer(id, values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  for (const [value, count] of counts) {
    const option = element("option", "", `${value} (${count.toLocaleString("en")})`);
    option.value = value;
    byId(id).append(option);
  }
}

function textOf(n) {
  const trace = state.all[n];
  return (state.texts[n] ??= [trace.id, trace.question, trace.error || "",
    ...trace.messages.map((message) => `${message.text || ""} ${message.explanation || ""} ${message.guide || ""}`)]
    .join("\n").toLowerCase());
}

function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [stage, outcome, tries] = ["stage", "outcome", "tries"].map((id) => byId(id).value);
  state.found = [];
  state.all.forEach((trace, n) => {
    if ((!stage || trace.stage === stage) && (!outcome || trace.outcome === outcome) && (!tries || String(trace.tries) === tries)
      && (!words.length || words.every((word) => textOf(n).includes(word)))) state.found.push(n);
  });
  byId("found").textContent = `${state.found.length.toLocaleString("en")} of ${state.all.length.toLocaleString("en")} traces`;
  byId("space").style.height = state.found.length * ROW + "px";
  byId("list").scrollTop = 0;
  state.chosen = -1;
  fill();
}

/* Only the rows in sight are in the page. */
function fill() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(state.found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let at = first; at < last; at++) rows.push(rowOf(at));
  byId("space").replaceChildren(...rows);
  if (state.chosen >= first && state.chosen < last) list.setAttribute("aria-activedescendant", "row-" + state.chosen);
  else list.removeAttribute("aria-activedescendant");
}

function rowOf(at) {
  const trace = state.all[state.found[at]];
  const row = element("div", "row", element("span", "asked", trace.question.slice(0, 160)),
    element("span", "meta", tag(trace.outcome), element("span", "", trace.stage),
      trace.tries > 1 ? element("span", "", `${trace.tries} tries`) : null));
  row.id = "row-" + at;
  row.dataset.at = at;
  row.style.top = at * ROW + "px";
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", at === state.chosen);
  row.setAttribute("aria-setsize", state.found.length);
  row.setAttribute("aria-posinset", at + 1);
  return row;
}

const tag = (word) => element("span", "tag " + word.replace(/[^a-z]/g, ""), word);

function move(event) {
  const page = Math.floor(byId("list").clientHeight / ROW);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key === "Enter") { byId("trace").scrollIntoView({ block: "nearest" }); byId("trace").focus({ preventScroll: true }); }
  if (!(event.key in steps) || !state.found.length) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(state.found.length - 1, state.chosen + steps[event.key])));
}

/* `goThere`: where the trace stands below the list, scroll to it. */
function choose(at, goThere = false) {
  state.chosen = at;
  const list = byId("list");
  const top = at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  fill();
  show();
  history.replaceState(null, "", linkTo(state.all[state.found[at]]));
  if (goThere && matchMedia("(max-width: 860px)").matches) byId("trace").scrollIntoView();
}

/* one trace */

function show() {
  if (state.chosen < 0) return;
  const trace = state.all[state.found[state.chosen]];
  const head = element("div", "meta", tag(trace.outcome), element("span", "", trace.stage), element("code", "", trace.id), links(trace));
  const parts = [element("h3", "", "Trace"), head, element("div", "asked-in-full", trace.question)];
  if (trace.reference) parts.push(message("reference", null, trace.reference));
  if (trace.error) parts.push(element("p", "warn", trace.error));
  let before = null;
  turnsOf(trace).forEach((turn, n) => {
    const attempt = turn.find((said) => said.kind === "attempt");
    const beside = element("div", "beside", ...turn.map((said) => shown(said, said === attempt ? before : null)));
    if (attempt) before = attempt.text || "";
    const heldOut = trace.stage.startsWith("held out");
    const title = heldOut ? attempt?.weights || "" : attempt ? (trace.stage.startsWith("self-train") ? ["low", "high"][n] || "" : `Try ${n + 1}`) : "";
    parts.push(element("div", "turn", title ? element("h4", "", title) : null, beside));
  });
  byId("trace").replaceChildren(...parts);
}

function links(trace) {
  const here = element("a", "", "link to this trace"), back = element("a", "back", "back to the list");
  here.href = linkTo(trace);
  back.href = "#list";
  back.addEventListener("click", (event) => { event.preventDefault(); byId("list").scrollIntoView(); byId("list").focus({ preventScroll: true }); });
  return element("span", "links", back, here);
}

/* An attempt begins a turn; its verdict and guide stand beside it. */
function turnsOf(trace) {
  const turns = [];
  for (const said of trace.messages) {
    if (said.kind === "attempt" || !turns.length || (said.kind === "answer" && turns.at(-1)[0].kind !== "guideline")) turns.push([]);
    turns.at(-1).push(said);
  }
  return turns;
}

function shown(said, before) {
  if (said.kind === "verdict") return message("verdict", said, said.explanation || "", tag(said.status));
  if (said.kind === "guide") return message("guide", said, said.guide || "(none)");
  const cut = said.truncated ? tag("cut off") : null;
  const marked = before !== null && byId("marks").checked ? changes(before, said.text || "") : null;
  const box = message(said.kind, said, marked ? "" : said.text || "", cut);
  if (marked) box.querySelector(".said").replaceChildren(...marked);
  return box;
}

function message(kind, said, text, more) {
  const speaker = said ? said.weights || said.model || "" : "";
  return element("div", "message " + kind.replace(/[^a-z]/g, ""), element("h5", "", element("b", "", kind), speaker, more), element("p", "said", text));
}

/* The words of `after`, new ones marked inserted and lost ones of `before` deleted; null where the two share too little for
   marks to help. */
function changes(before, after) {
  const a = before.split(/(\s+)/), b = after.split(/(\s+)/);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const x = a.slice(start, a.length - end), y = b.slice(start, b.length - end);
  const parts = [["", b.slice(0, start).join("")]];
  if (x.length * y.length > 4e6) parts.push(["del", x.join("")], ["ins", y.join("")]);
  else parts.push(...common(x, y));
  parts.push(["", b.slice(b.length - end).join("")]);
  const kept = parts.filter(([kind]) => !kind).reduce((sum, [, text]) => sum + text.trim().length, 0);
  if (kept < SHARED * Math.min(before.length, after.length)) return null;
  return joined(parts).map(([kind, text]) => (kind ? element(kind, "", text) : document.createTextNode(text)));
}

/* By the longest common subsequence. */
function common(x, y) {
  const width = y.length + 1;
  const longest = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      longest[i * width + j] = x[i] === y[j] ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const parts = [];
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) { parts.push(["", x[i]]); i++; j++; }
    else if (j === y.length || (i < x.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) parts.push(["del", x[i++]]);
    else parts.push(["ins", y[j++]]);
  }
  return parts;
}

function joined(parts) {
  const runs = [];
  for (const [kind, text] of parts) {
    if (!text) continue;
    if (runs.length && runs.at(-1)[0] === kind) runs.at(-1)[1] += text;
    else runs.push([kind, text]);
  }
  return runs;
}

window.addEventListener("load", () => Promise.all([browse(), drawCharts()]).then(
  () => { document.documentElement.dataset.state = "ready"; },
  (error) => { byId("found").textContent = "This page cannot be drawn: " + error; throw error; },
));
