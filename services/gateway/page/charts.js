// Line charts by uPlot, in the colours of the theme.

import { h } from "./dom.js";

const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];
const charts = new Set();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas cannot use light-dark(): the colours of the theme in force are read from an element.
function resolved(name) {
  const probe = document.createElement("span");
  probe.className = "probe";
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value || colour(name);
}

/** A chart of lines over time or steps, with a legend and a text for screen readers. */
export class LineChart {
  /**
   * @param {object} options title, labels, format (value to text), xFormat, height, isTime, isSmall,
   *     range (values to ends), steps (distances of ticks), least (smallest top of the scale)
   */
  constructor(options) {
    this.options = { height: 160, isTime: true, format: String, ...options };
    this.body = h("div", { class: "plot", "aria-hidden": "true" });
    this.text = h("figcaption", { class: options.isSmall ? "hidden" : "" });
    this.node = h("figure", { class: options.isSmall ? "chart small" : "chart" }, this.text, this.body);
    this.data = [[], []];
    charts.add(this);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.body);
  }

  /** Show other data: x values, then the values of each line. */
  update(data, labels = this.options.labels) {
    this.data = data;
    const changed = labels.join() !== this.labels?.join();
    this.labels = labels;
    const last = data.slice(1).map((line) => line.findLast((value) => value !== null && value !== undefined));
    const words = labels.map((label, at) => `${label} ${last[at] === undefined ? "no data" : this.options.format(last[at])}`);
    const isEmpty = last.every((value) => value === undefined);
    this.body.classList.toggle("no-data", isEmpty);
    this.text.replaceChildren(h("span", { class: "chart-title" }, this.options.title), h("span", { class: "chart-last" }, isEmpty ? "no data" : labels.length > 1 ? "" : words[0].slice(labels[0].length + 1)));
    if (this.options.isSmall) this.text.textContent = `${this.options.title}: ${words.join(", ")}`;
    if (!this.options.isSmall && labels.length > 1) {
      this.text.append(h("span", { class: "legend" }, labels.map((_, at) => h("span", {}, h("span", { class: `key k${at % COLOURS.length}`, "aria-hidden": "true" }), words[at]))));
    }
    if (!this.plot || changed) this.draw();
    else this.plot.setData(data);
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.body.clientWidth;
    if (!width || !this.labels) return;
    const { height, isTime, isSmall, format, xFormat, steps, least = 1 } = this.options;
    const muted = resolved("--muted");
    const grid = { stroke: resolved("--line"), width: 1 };
    const axis = { stroke: muted, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const time = (ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString("en-GB"));
    const ticksOf = xFormat ? (_, ticks) => ticks.map(xFormat) : isTime ? (_, ticks) => time(ticks) : undefined;
    const axes = isSmall ? [{ show: false }, { show: false }] : [
      { ...axis, size: 24, grid: { show: false }, space: 80, ...(ticksOf ? { values: ticksOf } : {}) },
      { ...axis, size: 54, space: 30, values: (_, ticks) => ticks.map((tick) => format(tick)), ...(steps ? { incrs: steps } : {}) },
    ];
    const lines = this.labels.map((label, at) => ({
      label, stroke: resolved(COLOURS[at % COLOURS.length]), width: 1.75, points: { show: this.data[0].length < 2 && !isSmall },
      fill: isSmall ? resolved("--series-fill") : undefined, spanGaps: false,
    }));
    const range = (_, low, high) => (this.options.range ? this.options.range(low, high) : [Math.min(0, low ?? 0), Math.max((high ?? 0) * 1.1, least)]);
    this.plot = new window.uPlot({
      width, height, legend: { show: false }, cursor: { show: !isSmall, points: { size: 6 }, drag: { x: false, y: false } },
      padding: isSmall ? [2, 0, 2, 0] : [8, 8, 0, 0],
      scales: { x: { time: isTime }, y: { range } }, axes, series: [{}, ...lines],
    }, this.data, this.body);
  }

  resize() {
    const width = this.body.clientWidth;
    if (!width) return;
    if (this.plot) this.plot.setSize({ width, height: this.options.height });
    else this.draw();
  }
}

/** Draw all charts again, after a change of the theme. */
export function redraw() {
  for (const chart of charts) {
    if (chart.node.isConnected) chart.draw();
  }
}

/** Return [times in s, values…] of a process's points for some fields. */
export function columns(points, ...fields) {
  return [points.map((point) => point.unix_ms / 1000), ...fields.map((field) => points.map((point) => point[field] ?? null))];
}
