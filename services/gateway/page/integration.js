// Integration: which missions call which, compatibility of pairs, test results, GPU plan.

import { absent, badge, card, h, number, s, swap, table } from "./dom.js";
import { interval } from "./intervals.js";

const nodes = {};
const BOX = { width: 132, height: 44 };

export function mount(root) {
  nodes.graph = h("div");
  nodes.pairs = h("div");
  nodes.effects = h("div");
  nodes.tests = h("div");
  nodes.plan = h("div");
  root.append(card("Interfaces between missions", nodes.graph), h("div", { class: "columns" }, card("Interfaces of pairs", nodes.pairs), card("GPU plan", nodes.plan)), card("Compatibility of pairs", nodes.effects), card("Integration tests", nodes.tests));
}

export function update({ snapshot, results }) {
  if (!snapshot) return;
  const part = snapshot.control;
  const names = (snapshot.missions.data ?? []).map((one) => one.name);
  const graph = part.data?.graph;
  swap(nodes.graph, { part: part.state, reason: part.reason, graph }, () => (graph ? drawn(graph) : absent(part, "the orchestrator")));
  swap(nodes.pairs, { names, edges: graph?.edges, state: part.state }, () => (graph ? pairs(graph) : absent(part, "the orchestrator")));
  swap(nodes.plan, { plan: part.data?.plan, state: part.state }, () => (part.data ? plan(part.data.plan) : absent(part, "the orchestrator")));
  swap(nodes.effects, results?.pairs ?? null, () => effects(results?.pairs ?? []));
  const gates = (results?.gates ?? []).filter((gate) => gate.mission === "fleet" || gate.phase > 1);
  swap(nodes.tests, gates, () => table("Gates of several missions", ["Gate", "Phase", "Claim", "Estimate and 95 % interval", "Adjusted p", "Verdict"], gates.map((gate) => [
    gate.id, String(gate.phase), h("span", { class: "claim" }, gate.claim), interval(gate), number(gate.p_adjusted), badge({ pass: "good", fail: "bad", unverified: "warn" }[gate.status] ?? "idle", gate.status.replace("_", " ")),
  ]), "The gates cannot be read."));
}

const short = (name) => name.split("/").at(-1);

function drawn(graph) {
  if (!graph.missions.length) return h("p", { class: "empty" }, "No mission is active.");
  const count = graph.missions.length;
  const columns = Math.min(count, 3);
  const gap = { x: 90, y: 70 };
  const place = new Map(graph.missions.map((name, at) => [name, { x: (at % columns) * (BOX.width + gap.x), y: Math.floor(at / columns) * (BOX.height + gap.y) }]));
  const width = columns * BOX.width + (columns - 1) * gap.x;
  const height = Math.ceil(count / columns) * (BOX.height + gap.y) - gap.y;
  const words = graph.edges.map((edge) => `${short(edge.from)} calls ${short(edge.to)}: ${edge.healthy ? "works" : edge.reason}`).join("; ") || "no calls";
  return [
    s("svg", { class: "graph", viewBox: `-4 -4 ${width + 8} ${height + 8}`, width: width + 8, role: "img", "aria-label": `Integration graph. ${words}` },
      s("defs", {}, s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, s("path", { d: "M0 0 8 4 0 8z" }))),
      graph.edges.map((edge) => line(place.get(edge.from), place.get(edge.to), edge)),
      graph.missions.map((name) => {
        const { x, y } = place.get(name);
        return s("g", { class: "node" }, s("rect", { x, y, width: BOX.width, height: BOX.height, rx: 8 }), s("text", { x: x + BOX.width / 2, y: y + BOX.height / 2 + 5, "text-anchor": "middle" }, short(name)));
      })),
    table("Calls between missions", ["From", "To", "Interface", "State"], graph.edges.map((edge) => [short(edge.from), short(edge.to), edge.interface, edge.healthy ? badge("good", "Works") : h("span", {}, badge("bad", "Broken"), " ", edge.reason)]), "No active mission calls another."),
  ];
}

function line(from, to, edge) {
  if (!from || !to) return null;
  const middle = (box) => ({ x: box.x + BOX.width / 2, y: box.y + BOX.height / 2 });
  const [a, b] = [middle(from), middle(to)];
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const scale = Math.min(dx ? BOX.width / 2 / Math.abs(dx) : Infinity, dy ? BOX.height / 2 / Math.abs(dy) : Infinity);
  const cut = { x1: a.x + dx * scale, y1: a.y + dy * scale, x2: b.x - dx * scale, y2: b.y - dy * scale };
  return s("line", { ...cut, class: edge.healthy ? "edge" : "edge broken", "marker-end": "url(#tip)" });
}

function pairs(graph) {
  const names = graph.missions;
  if (names.length < 2) return h("p", { class: "empty" }, "A pair needs two active missions.");
  const cell = (from, to) => {
    if (from === to) return "";
    const edges = graph.edges.filter((edge) => (edge.from === from && edge.to === to) || (edge.from === to && edge.to === from));
    if (!edges.length) return h("span", { class: "quiet" }, "no interface");
    return edges.every((edge) => edge.healthy) ? badge("good", "works") : badge("bad", "broken");
  };
  return table("Interfaces of pairs", ["Mission", ...names.map(short)], names.map((from) => [short(from), ...names.map((to) => cell(from, to))]));
}

function effects(found) {
  if (!found.length) return h("p", { class: "empty" }, "Pairs of missions are not measured yet; `make compatibility-study` measures them.");
  const names = [...new Set(found.map((one) => one.mission))];
  const points = (value) => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
  const cell = (mission, other) => {
    const one = found.find((pair) => pair.mission === mission && pair.other === other);
    if (!one) return "";
    const range = one.ci_low === null ? "" : ` (${points(one.ci_low)} to ${points(one.ci_high)})`;
    return `${points(one.difference)}${range}`;
  };
  return [
    h("p", { class: "quiet" }, "Points of F1 on a mission's items (row) with another mission active (column), less the mission alone, with 95 % intervals."),
    table("Compatibility of pairs", ["Mission", ...names], names.map((mission) => [mission, ...names.map((other) => cell(mission, other))])),
  ];
}

function plan(found) {
  if (!found.nodes.length && !found.assignments.length) return h("p", { class: "empty" }, badge("idle", "No GPUs"), " Missions run on the processor.");
  return [
    table("GPU nodes", ["Node", "Product", "Assigned", "Outside the fleet"], found.nodes.map((node) => [node.name, node.product, `${node.assigned} of ${node.gpus}`, String(node.foreign_units)]), "No node has GPUs."),
    table("GPU requests", ["Mission", "Request", "Pods", "Placed"], found.assignments.map((one) => [short(one.mission), one.gpu_request, String(one.pods), one.unmet_reason ? h("span", {}, badge("bad", one.unmet_reason), " ", one.unmet_message) : Object.entries(one.placed).map(([node, pods]) => `${node}: ${pods}`).join(", ")]), "No mission requests GPUs."),
  ];
}
