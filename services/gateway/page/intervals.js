// Intervals and evidence, drawn as small SVGs inside tables; each has its numbers in words.

import { h, number, s } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 28;

/** Return the drawing of a gate: interval, estimate, target and the side that is better. */
export function interval(gate) {
  if (gate.figure === null || gate.figure === undefined) return h("span", { class: "quiet" }, "not measured");
  const low = gate.ci_low ?? gate.figure;
  const high = gate.ci_high ?? gate.figure;
  const ends = [low, high, gate.figure, gate.target, gate.margin].filter((one) => one !== null && one !== undefined);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const room = (most - least || Math.abs(most) || 1) * 0.12;
  const at = (value) => 4 + ((value - least + room) / (most - least + 2 * room)) * (WIDTH - 8);
  const higher = gate.direction === "higher";
  const edge = at(gate.target);
  const good = higher ? { x: edge, width: WIDTH - edge } : { x: 0, width: edge };
  const words = `${number(gate.figure)}, 95 % interval ${number(low)} to ${number(high)}, target ${higher ? "at least" : "at most"} ${number(gate.target)}`;
  return h(
    "span",
    { class: "interval" },
    s(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words, class: `ci ${gate.status}` },
      s("rect", { class: "good-side", x: good.x, y: 2, width: Math.max(0, good.width), height: HEIGHT - 4 }),
      s("line", { class: "target", x1: edge, x2: edge, y1: 2, y2: HEIGHT - 2 }),
      s("line", { class: "span", x1: at(low), x2: at(high), y1: HEIGHT / 2, y2: HEIGHT / 2 }),
      [low, high].map((end) => s("line", { class: "span", x1: at(end), x2: at(end), y1: HEIGHT / 2 - 5, y2: HEIGHT / 2 + 5 })),
      s("circle", { class: "figure", cx: at(gate.figure), cy: HEIGHT / 2, r: 4.5 }),
    ),
    h("span", { class: "numbers" }, `${number(gate.figure)} [${number(low)}, ${number(high)}]`),
  );
}

/** Return e = 1/p of an always-valid p-value: how often the data outbid the null hypothesis. */
export function eValue(p) {
  return p > 0 ? 1 / p : Infinity;
}

/** Return a bar of log e against the value at which it decides. */
export function evidenceBar(p, alpha, label, kind) {
  const decides = Math.log10(1 / alpha);
  const value = Math.min(Math.log10(eValue(p)), decides * 1.4);
  const at = (one) => (Math.max(0, one) / (decides * 1.4)) * WIDTH;
  const shown = p <= alpha;
  const words = `${label}: e-value ${number(eValue(p))}, decides at ${number(1 / alpha)}`;
  return h(
    "span",
    { class: "interval" },
    s(
      "svg",
      { viewBox: `0 0 ${WIDTH} 18`, role: "img", "aria-label": words, class: `evidence ${kind} ${shown ? "shown" : ""}` },
      s("rect", { class: "track", x: 0, y: 5, width: WIDTH, height: 8, rx: 4 }),
      s("rect", { class: "value", x: 0, y: 5, width: Math.max(2, at(value)), height: 8, rx: 4 }),
      s("line", { class: "target", x1: at(decides), x2: at(decides), y1: 0, y2: 18 }),
    ),
    h("span", { class: "numbers" }, `e = ${number(eValue(p))}`),
  );
}
