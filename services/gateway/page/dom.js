// Elements and texts. Nothing here parses HTML, so that no text of a model or a person is markup.

/** Return an element with attributes, properties (on*, value, checked, …) and children. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

/** Replace a node's children if `state` differs from the last time; the focus stays by id. */
export function swap(node, state, build) {
  const text = JSON.stringify(state);
  if (node.shownState === text) return;
  node.shownState = text;
  const focused = node.contains(document.activeElement) ? document.activeElement.id : "";
  node.replaceChildren(...[build()].flat(3).filter(Boolean));
  if (focused) document.getElementById(focused)?.focus();
}

/** Return a table that scrolls sideways on a narrow screen. */
export function table(caption, heads, rows, empty = "None.") {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const cells = (row) => row.map((cell, at) => (at ? h("td", {}, cell) : h("th", { scope: "row" }, cell)));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))),
    ),
  );
}

const MARKS = { good: "M5 10.5 8.5 14 15 6.5", bad: "M6 6 14 14M14 6 6 14", warn: "M10 5v6M10 14v.5", idle: "M6 10h8" };

/** Return a state as shape, colour and words: never by colour alone. */
export function badge(kind, text) {
  const icon = s("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, s("path", { d: MARKS[kind] ?? MARKS.idle }));
  return h("span", { class: `badge ${kind}` }, icon, text);
}

/** Return a card with a title of level 3. */
export function card(title, ...children) {
  return h("section", { class: "card" }, title ? h("h3", {}, title) : null, ...children);
}

/** Return the text of a part without data: what its source says, or that it is refused. */
export function absent(part, noun) {
  if (!part) return h("p", { class: "empty" }, `Waiting for ${noun}.`);
  const kind = part.state === "unavailable" ? "bad" : "idle";
  const word = { unavailable: "unavailable", refused: "operators only", absent: "not in this fleet" }[part.state];
  return h("p", { class: "empty" }, badge(kind, word), " ", part.reason);
}

const digits = (value, most) => value.toLocaleString("en", { maximumFractionDigits: most, useGrouping: true });

/** Return a number with about three significant digits; a dash for none. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return digits(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4);
}

/** Return seconds as ms or s. */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${digits(value * 1000, value < 0.01 ? 1 : 0)} ms` : `${digits(value, 2)} s`;
}

/** Return bytes in MiB or GiB. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  return value >= 2 ** 30 ? `${digits(value / 2 ** 30, 1)} GiB` : `${digits(value / 2 ** 20, 0)} MiB`;
}

/** Return processor time per second with two decimals. */
export function cores(value) {
  return value.toFixed(2);
}

/** Return a share as percent. */
export function percent(value) {
  return value === null || value === undefined ? "–" : `${digits(value * 100, value < 0.1 ? 1 : 0)} %`;
}

/** Return a time of day, or a date for another day. */
export function moment(unixMs) {
  const at = new Date(unixMs);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}

/** Show a short message at the bottom of the page. */
export function toast(text, isError = false) {
  const node = document.getElementById("toast");
  node.textContent = text;
  node.classList.toggle("bad", isError);
  node.hidden = false;
  clearTimeout(node.timer);
  node.timer = setTimeout(() => { node.hidden = true; }, isError ? 9000 : 4000);
}
