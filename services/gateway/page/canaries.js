// Canaries as they run: phase, traffic, and the evidence that decides them.

import { post } from "./api.js";
import { LineChart } from "./charts.js";
import { absent, badge, card, h, number, percent, swap, table, toast } from "./dom.js";
import { eValue, evidenceBar } from "./intervals.js";
import { isOperator } from "./store.js";

const nodes = {};
const panels = new Map();
const PHASES = ["Starting", "Shadow", "Canary", "Promoting", "Promoted"];
const FINAL = new Set(["Promoted", "RolledBack"]);
const KINDS = { Promoted: "good", RolledBack: "bad", Inconclusive: "warn" };
const MARGINS = { errors: "errorMargin", violations: "violationMargin", latency: "latencyMargin", "latency p95": "p95Margin", "latency p99": "p99Margin", answered: "minAnswered", quality: "qualityMargin" };
const DEFAULT_ALPHA = 0.05;

export function mount(root) {
  nodes.missing = h("div");
  nodes.list = h("div", { class: "stack" });
  root.append(nodes.missing, nodes.list);
}

export function update(store) {
  const part = store.snapshot?.control;
  swap(nodes.missing, { state: part?.state, reason: part?.reason }, () => (part?.state === "ok" ? null : card("", absent(part, "the orchestrator"))));
  const missions = part?.data?.missions ?? [];
  for (const [name, panel] of panels) {
    if (!missions.some((one) => one.name === name)) {
      panel.node.remove();
      panels.delete(name);
    }
  }
  for (const mission of missions) {
    if (!panels.has(mission.name)) {
      panels.set(mission.name, makePanel(mission.name));
      nodes.list.append(panels.get(mission.name).node);
    }
    updatePanel(panels.get(mission.name), mission, store);
  }
}

function makePanel(name) {
  const panel = { head: h("div", { class: "canary-head" }), evidence: h("div"), actions: h("div"), start: h("div") };
  panel.chart = new LineChart({ title: "Evidence for promotion, log10 e over request pairs", labels: ["–"], isTime: false, xFormat: (pairs) => String(pairs), format: (value) => number(value), height: 200 });
  panel.curve = h("div", {}, panel.chart.node);
  panel.node = card(name, panel.head, panel.actions, panel.evidence, panel.curve, panel.start);
  return panel;
}

function updatePanel(panel, mission, store) {
  const canary = mission.canary;
  swap(panel.head, { canary: canary && { ...canary, evidence: null } }, () => (canary ? head(canary) : h("p", { class: "empty" }, badge("idle", "No canary yet"))));
  swap(panel.actions, { phase: canary?.phase, paused: canary?.paused, operator: isOperator() }, () => actions(mission));
  swap(panel.evidence, canary && [canary.evidence, canary.analysis], () => (canary?.evidence.length ? evidence(canary) : null));
  swap(panel.start, { ended: !canary || FINAL.has(canary.phase), operator: isOperator() }, () => (isOperator() && (!canary || FINAL.has(canary.phase)) ? startForm(mission.name) : null));
  const kept = (canary && store.evidence.get(canary.id)) || [];
  panel.curve.hidden = kept.length < 2;
  if (kept.length >= 2) {
    const metrics = Object.keys(kept.at(-1).metrics);
    const lines = metrics.map((metric) => kept.map((one) => (one.metrics[metric] ? Math.min(9, Math.log10(eValue(one.metrics[metric].p_shown))) : null)));
    panel.chart.update([kept.map((one) => one.pairs), ...lines], metrics);
  }
}

function head(canary) {
  const reached = PHASES.indexOf(canary.phase);
  const steps = h("ol", { class: "phases", "aria-label": "Phases" }, PHASES.map((phase, at) => h("li", { class: at < reached ? "past" : at === reached ? "now" : "", "aria-current": at === reached ? "step" : null }, phase)));
  const bar = h("span", { class: "bar" });
  bar.style.width = `${canary.weight}%`;
  const weight = h("div", { class: "meter-row" }, h("span", { class: "label" }, "Traffic"), h("span", { class: "track", role: "meter", "aria-label": "Share of sessions that the canary answers", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": canary.weight, "aria-valuetext": `${canary.weight} %` }, bar), h("span", { class: "text" }, `${canary.weight} % of sessions${canary.mirror ? `, ${canary.mirror} % mirrored` : ""}`));
  return [
    h("p", { class: "lead" }, badge(KINDS[canary.phase] ?? "idle", canary.phase), " ", h("strong", {}, canary.candidate), canary.paused ? [" ", badge("warn", "Paused")] : null, h("span", { class: "quiet" }, ` step ${canary.step}, ${number(Number(canary.pairs))} pairs`)),
    reached >= 0 ? steps : null,
    weight,
    canary.reason || canary.verdict_reasons ? h("p", {}, canary.verdict_reasons && canary.verdict ? h("strong", {}, `${canary.verdict}: `) : null, canary.verdict_reasons || canary.reason) : null,
  ];
}

function evidence(canary) {
  const alpha = canary.analysis.alpha ?? DEFAULT_ALPHA;
  return [
    table("Evidence by metric", ["Metric", "Mean gain", "Margin", "Shown good enough", "Shown worse", "Pairs"], canary.evidence.map((one) => [
      one.metric, gain(one), margin(one.metric, canary.analysis), evidenceBar(one.p_shown, alpha, `${one.metric}, good enough`, "for"), evidenceBar(one.p_worse, alpha, `${one.metric}, worse`, "against"), number(Number(one.pairs)),
    ])),
    h("p", { class: "hint" }, `Bars are e-values on a logarithmic scale: how often the data outbid the null hypothesis, valid at every look. The dashed line is 1/alpha = ${number(1 / alpha)}. Promotion needs every metric beyond it on the left; on the right one metric is enough to roll back, at its share of alpha.`),
  ];
}

function gain(one) {
  if (one.gain === null || one.gain === undefined) return "–";
  if (one.metric === "latency") return `× ${number(Math.exp(-one.gain))}`;
  return `${one.gain > 0 ? "+" : ""}${percent(one.gain)}`;
}

function margin(metric, analysis) {
  const value = analysis[MARGINS[metric]];
  if (value === undefined) return "–";
  if (metric === "latency") return `at most × ${number(value)}`;
  return metric === "answered" ? `more than ${percent(value)}` : `at most ${percent(value)} worse`;
}

function actions(mission) {
  const canary = mission.canary;
  if (!isOperator() || !canary || FINAL.has(canary.phase)) return null;
  const button = (command, label, kind = "") => h("button", { type: "button", class: kind, id: `${command}-${mission.name}`, onclick: () => steer(mission.name, command, label) }, label);
  return h("div", { class: "row actions", role: "group", "aria-label": `Steer the canary of ${mission.name}` }, canary.paused ? button("resume", "Resume") : button("pause", "Pause"), button("promote", "Promote now"), button("abort", "Abort", "danger"));
}

async function steer(mission, command, label) {
  if (command !== "pause" && command !== "resume" && !window.confirm(`${label} the canary of ${mission}?`)) return;
  try {
    await post(`v1/fleet/canaries/${mission}/${command}`);
    toast(`${label}: the orchestrator follows.`);
  } catch (error) {
    toast(error.message, true);
  }
}

function startForm(mission) {
  const model = h("input", { id: `canary-model-${mission}`, required: true, maxlength: 64, autocomplete: "off" });
  const shadow = h("input", { id: `canary-shadow-${mission}`, type: "number", min: 0, max: 100, value: "20" });
  const attempt = h("input", { id: `canary-attempt-${mission}`, type: "number", min: 1, placeholder: "1" });
  const begin = async (event) => {
    event.preventDefault();
    const body = { model: model.value, shadow: Number(shadow.value), ...(attempt.value ? { attempt: Number(attempt.value) } : {}) };
    try {
      await post(`v1/fleet/canaries/${mission}`, body);
      toast(`Canary ${model.value} is requested.`);
    } catch (error) {
      toast(error.message, true);
    }
  };
  return h("details", {}, h("summary", {}, "Start a canary"), h("form", { onsubmit: begin, class: "fields" },
    h("label", { for: model.id }, "Adapter to try", model), h("label", { for: shadow.id }, "Mirrored requests, %", shadow), h("label", { for: attempt.id }, "Attempt", attempt), h("button", { type: "submit", class: "primary" }, "Start canary")));
}
