// Overview: mission grid, gauges, health of the processes, and what needs attention.

import { LineChart, columns } from "./charts.js";
import { absent, badge, bytes, card, cores, h, number, percent, seconds, swap, table } from "./dom.js";
import { latest } from "./store.js";
import { noticeRows } from "./alerts.js";

export const LETTERS = { router: "A", online: "B", safety: "C", sep: "D", memory: "E" };
const NAMES = { router: "Planner", online: "Living model", safety: "Safety", sep: "Scramble robustness", memory: "Memory" };
const TILES = [
  { id: "requests", title: "Requests", unit: "/s", field: "requests_per_s", format: number },
  { id: "latency", title: "Latency, p95", unit: "", field: "latency_p95_s", format: seconds, least: 0.01 },
  { id: "errors", title: "Failed requests", unit: "/s", field: "errors_per_s", format: number },
  { id: "tokens", title: "Generated tokens", unit: "/s", field: "tokens_per_s", format: number, process: "router" },
  { id: "withheld", title: "Withheld texts", unit: "/s", field: "withheld_per_s", format: number, process: "router-sidecar" },
];
// A figure that is older than a few readings is no figure of now.
const RECENT = 3;
const nodes = {};

export function mount(root) {
  nodes.grid = h("ul", { class: "missions-grid", "aria-label": "Missions" });
  nodes.tiles = TILES.map((tile) => makeTile(tile));
  nodes.meters = h("div", { class: "meters" });
  nodes.attention = h("div");
  nodes.health = h("div");
  root.append(
    nodes.grid,
    h("div", { class: "tiles" }, nodes.tiles.map((tile) => tile.node)),
    h("div", { class: "columns" }, card("Resources", nodes.meters), card("Needs attention", nodes.attention)),
    card("Processes", nodes.health),
  );
}

function makeTile(tile) {
  const value = h("span", { class: "value" }, "–");
  const chart = new LineChart({ title: `${tile.title} over time`, labels: [tile.title], isSmall: true, height: 36, format: tile.format, least: tile.least });
  const node = h("div", { class: "tile", id: `tile-${tile.id}` }, h("span", { class: "label" }, tile.title), value, chart.node);
  return { ...tile, node, value, chart };
}

export function update(store) {
  const { snapshot } = store;
  if (!snapshot) return;
  const gates = store.results?.gates ?? [];
  swap(nodes.grid, gridState(snapshot, gates), () => gridState(snapshot, gates).map(missionCell));
  for (const tile of nodes.tiles) {
    const points = store.history.get(tile.process ?? "gateway") ?? [];
    const last = points.slice(-RECENT).findLast((point) => point[tile.field] !== null && point[tile.field] !== undefined);
    tile.value.textContent = last ? `${tile.format(last[tile.field])}${tile.unit}` : "no data";
    tile.value.classList.toggle("quiet", !last);
    tile.chart.update(columns(points, tile.field));
  }
  updateMeters(snapshot);
  const urgent = snapshot.notices.concat(snapshot.alerts.data ?? []).filter((one) => one.severity !== "info");
  swap(nodes.attention, urgent, () => (urgent.length
    ? [noticeRows(urgent.slice(0, 4)), urgent.length > 4 ? h("p", {}, h("a", { href: "#alerts" }, `All ${urgent.length} alerts`)) : null]
    : h("p", { class: "empty" }, badge("good", "Nothing needs attention."))));
  updateHealth(snapshot);
}

/** Return the state of each of the seed's missions, and of any other that the fleet serves. */
function gridState(snapshot, gates) {
  const served = Object.fromEntries((snapshot.missions.data ?? []).map((one) => [one.name, one]));
  const names = [...new Set([...Object.keys(LETTERS), ...Object.keys(served)])];
  return names.map((name) => {
    const own = gates.filter((gate) => gate.mission === name);
    const count = (status) => own.filter((gate) => gate.status === status).length;
    const point = latest(name);
    return {
      name,
      serving: served[name]?.serving ?? null,
      sidecars: Object.keys(served).length,
      detail: name in served ? (served[name].serving ? `${served[name].base_model}, ${served[name].weights}` : served[name].reason) : "",
      load: served[name]?.serving ? `${number(point.running ?? 0)} running, ${number(point.waiting ?? 0)} waiting` : "",
      pass: count("pass"), fail: count("fail"), unverified: count("unverified"), open: count("not_measured"), gates: own.length,
    };
  });
}

function missionCell(one) {
  const isSidecar = one.name === "safety" && one.serving === null;
  let state = badge("idle", "Not in this fleet");
  if (one.serving) state = badge("good", "Serving");
  else if (one.serving === false) state = badge("bad", "Unavailable");
  else if (isSidecar) state = badge("good", `${one.sidecars} sidecars`);
  const shares = [["pass", one.pass], ["fail", one.fail], ["unverified", one.unverified], ["open", one.open]];
  return h(
    "li",
    { class: "mission-cell" },
    h("p", { class: "mission-name" }, h("span", { class: "letter", "aria-hidden": "true" }, LETTERS[one.name] ?? "+"), h("span", {}, h("strong", {}, one.name), h("span", { class: "quiet" }, NAMES[one.name] ?? "Mission"))),
    h("div", { class: "cell" }, state, h("span", { class: "quiet" }, isSidecar ? "in front of every mission" : one.load || one.detail)),
    h(
      "div",
      { class: "cell" },
      h("span", {}, one.gates ? `${one.pass} of ${one.gates} gates pass` : "no gates"),
      h("span", { class: "shares", "aria-hidden": "true" }, shares.flatMap(([kind, count]) => Array.from({ length: count }, () => h("span", { class: `share ${kind}` })))),
      h("span", { class: "quiet" }, [one.fail && `${one.fail} fail`, one.unverified && `${one.unverified} unverified`, one.open && `${one.open} not measured`].filter(Boolean).join(", ")),
    ),
  );
}

function updateMeters(snapshot) {
  const metrics = snapshot.metrics.data;
  const points = metrics.processes.map((process) => latest(process.name));
  const sum = (field) => points.reduce((total, point) => total + (point[field] ?? 0), 0);
  const status = snapshot.control.data?.status;
  const rows = [
    { title: "Processor", value: sum("cpu_cores"), most: metrics.cores, text: `${cores(sum("cpu_cores"))} of ${metrics.cores} cores` },
    { title: "Memory", value: sum("memory_bytes"), most: metrics.memory_bytes, text: `${bytes(sum("memory_bytes"))} of ${bytes(metrics.memory_bytes)}` },
  ];
  if (status && status.gpus) rows.push({ title: "GPUs", value: status.gpus_assigned, most: status.gpus, text: `${status.gpus_assigned} of ${status.gpus} assigned, ${status.gpu_requests_unmet} requests unmet` });
  else rows.push({ title: "GPUs", value: 0, most: 1, text: status ? "none in this fleet" : "shown to operators" });
  const ratio = latest("router").cache_hit_ratio;
  rows.push({ title: "Prefix cache", value: ratio ?? 0, most: 1, text: ratio === undefined || ratio === null ? "no data" : `${percent(ratio)} of prompt tokens reused` });
  swap(nodes.meters, rows, () => rows.map((row) => meter(row.title, row.value, row.most, row.text)));
}

/** Return a horizontal meter with its value in words. */
export function meter(title, value, most, text) {
  const share = Math.max(0, Math.min(1, value / (most || 1)));
  const bar = h("span", { class: `bar ${share > 0.9 ? "high" : ""}` });
  bar.style.width = `${share * 100}%`;
  return h(
    "div",
    { class: "meter-row" },
    h("span", { class: "label" }, title),
    h("span", { class: "track", role: "meter", "aria-label": title, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": Math.round(share * 100), "aria-valuetext": text }, bar),
    h("span", { class: "text" }, text),
  );
}

function updateHealth(snapshot) {
  if (snapshot.metrics.state !== "ok") {
    swap(nodes.health, snapshot.metrics, () => absent(snapshot.metrics, "metrics"));
    return;
  }
  const rows = snapshot.metrics.data.processes.map((process) => ({ ...process, points: undefined, last: latest(process.name) }));
  swap(nodes.health, rows, () => table(
    "Processes of the fleet",
    ["Process", "State", "Requests/s", "Latency p95", "Failed/s", "Running", "Processor", "Memory"],
    rows.map(({ name, reason, last }) => [
      name,
      reason ? h("span", {}, badge("bad", "No metrics"), " ", h("span", { class: "quiet" }, reason)) : badge("good", "Up"),
      number(last.requests_per_s), seconds(last.latency_p95_s), number(last.errors_per_s), number(last.running),
      last.cpu_cores === null || last.cpu_cores === undefined ? "–" : `${cores(last.cpu_cores)} cores`, bytes(last.memory_bytes),
    ]),
  ));
}
