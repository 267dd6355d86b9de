// Mission details: live curves, versions, gates with their intervals, training curves.

import { post } from "./api.js";
import { LineChart, columns } from "./charts.js";
import { absent, badge, bytes, card, h, moment, number, seconds, swap, table, toast } from "./dom.js";
import { interval } from "./intervals.js";
import { LETTERS } from "./overview.js";
import { isOperator, readResults, store as shared } from "./store.js";

const nodes = {};
const charts = {};
let chosen = "router";
const STATUS = { pass: ["good", "Pass"], fail: ["bad", "Fail"], unverified: ["warn", "Unverified"], not_measured: ["idle", "Not measured"] };

export function mount(root) {
  nodes.tabs = h("div", { class: "segments", role: "group", "aria-label": "Mission" });
  nodes.state = h("div");
  charts.load = new LineChart({ title: "Requests per second", labels: ["answered", "failed"], format: number });
  charts.latency = new LineChart({ title: "Latency, p95 of a minute", labels: ["p95"], format: seconds, least: 0.05 });
  charts.queue = new LineChart({ title: "Queue", labels: ["running", "waiting"], format: number });
  charts.tokens = new LineChart({ title: "Generated tokens per second", labels: ["tokens/s"], format: number });
  charts.memory = new LineChart({ title: "Resident memory", labels: ["memory"], format: bytes, steps: [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].map((mib) => mib * 2 ** 20) });
  charts.withheld = new LineChart({ title: "Withheld texts per second", labels: ["withheld"], format: number });
  nodes.live = card("Live", h("div", { class: "charts" }, Object.values(charts).map((chart) => chart.node)));
  nodes.versions = h("div");
  nodes.operate = h("div");
  nodes.gates = h("div");
  nodes.series = h("select", { id: "curve-series", onchange: () => update(shared) });
  charts.training = new LineChart({ title: "Training", labels: ["seed-0"], isTime: false, format: number, height: 240, xFormat: (step) => String(step), range: (low, high) => [low ?? 0, high ?? 1] });
  nodes.noCurves = h("div");
  nodes.training = card("Training curves", nodes.noCurves, h("div", { class: "with-curves" }, h("label", { class: "inline", for: "curve-series" }, "Series ", nodes.series), charts.training.node));
  root.append(nodes.tabs, nodes.state, nodes.live, card("Acceptance gates", nodes.gates), nodes.training, card("Versions", nodes.versions), nodes.operate);
}

export function signedOut() {
  nodes.operate.shownState = "";
  nodes.operate.replaceChildren();
}

export function update(store) {
  const { snapshot, results } = store;
  if (!snapshot) return;
  const served = snapshot.missions.data ?? [];
  const names = [...new Set([...Object.keys(LETTERS), ...served.map((one) => one.name), "fleet"])];
  swap(nodes.tabs, { names, chosen }, () => names.map((name) => h("button", {
    type: "button", id: `mission-${name}`, "aria-pressed": String(name === chosen),
    onclick: () => { chosen = name; update(shared); },
  }, LETTERS[name] ? `${LETTERS[name]} · ${name}` : name)));
  const mission = served.find((one) => one.name === chosen);
  const isServed = Boolean(mission);
  updateState(mission);
  nodes.live.hidden = !isServed;
  if (isServed) updateLive(store);
  updateGates(snapshot, results);
  updateTraining(results);
  updateVersions(mission);
  updateOperate(mission);
}

function updateState(mission) {
  swap(nodes.state, { mission, chosen }, () => {
    if (chosen === "safety") return h("p", { class: "lead" }, badge("good", "Sidecars"), " One in front of every mission; the safety adapter is served by the missions themselves.");
    if (chosen === "fleet") return h("p", { class: "lead" }, "Gates of several missions at once.");
    if (!mission) return h("p", { class: "lead" }, badge("idle", "Not in this fleet"), " The gateway's settings name no mission ", chosen, ".");
    if (!mission.serving) return h("p", { class: "lead" }, badge("bad", "Unavailable"), " ", mission.reason);
    return [h("p", { class: "lead" }, badge("good", "Serving"), ` ${mission.base_model}, ${mission.weights} weights, code ${mission.version}`), mission.warnings.map((one) => h("p", { class: "lead" }, badge("warn", "Note"), " ", one))];
  });
}

function updateLive(store) {
  const sidecar = store.history.get(`${chosen}-sidecar`) ?? [];
  const own = store.history.get(chosen) ?? [];
  charts.load.update(columns(sidecar, "requests_per_s", "errors_per_s"));
  charts.latency.update(columns(sidecar, "latency_p95_s"));
  charts.queue.update(columns(own, "running", "waiting"));
  charts.tokens.update(columns(own, "tokens_per_s"));
  charts.memory.update(columns(own, "memory_bytes"));
  charts.withheld.update(columns(sidecar, "withheld_per_s"));
}

function updateGates(snapshot, results) {
  const claims = snapshot.claims.data ?? [];
  const rows = (results?.gates ?? []).filter((gate) => gate.mission === chosen).map((gate) => withClaim(gate, claims));
  const note = snapshot.claims.state === "ok" ? "" : snapshot.claims.reason;
  swap(nodes.gates, { rows, note, reason: results?.reason }, () => [
    results?.reason ? h("p", { class: "empty" }, results.reason) : null,
    table("Acceptance gates", ["Gate", "Claim", "Estimate and 95 % interval", "Target", "Adjusted p", "Items × seeds", "Verdict"], rows.map(gateRow), "This mission has no gates."),
    h("p", { class: "hint" }, "The shaded side is better, the dashed line is the target. A gate passes if the estimate reaches it, the whole interval lies beyond the margin, and the p-value, adjusted over all gates, is at most 0.05.", note ? ` Live claims: ${note}.` : ""),
  ]);
}

/** Return the gate with the newest recorded claim in the place of an older verdict. */
function withClaim(gate, claims) {
  const claim = claims.find((one) => one.gate_id === gate.id);
  if (!claim) return { ...gate, source: "make gates" };
  const { measured, ref } = claim;
  return { ...gate, figure: measured.estimate, ci_low: measured.ci_low, ci_high: measured.ci_high, p_adjusted: ref.p_adjusted, n_items: measured.items, seeds: measured.seeds, status: claim.status, source: `claim of ${moment(Number(ref.recorded_unix_ms))}` };
}

function gateRow(gate) {
  const sign = gate.direction === "higher" ? "≥" : "≤";
  const hasFigure = gate.figure !== null && gate.figure !== undefined;
  return [
    gate.id, h("span", { class: "claim" }, gate.claim), interval(gate), `${gate.statistic} ${sign} ${number(gate.target)}`,
    number(gate.p_adjusted), hasFigure ? `${gate.n_items} × ${gate.seeds}` : "–",
    h("span", { class: "verdict" }, badge(...STATUS[gate.status]), hasFigure ? h("span", { class: "quiet" }, gate.source) : null),
  ];
}

function updateTraining(results) {
  const curves = (results?.curves ?? []).filter((curve) => curve.mission === chosen);
  nodes.training.hidden = !results;
  swap(nodes.noCurves, { chosen, none: !curves.length }, () => (curves.length ? null : h("p", { class: "empty" }, "No training run of this mission is stored in the results folder.")));
  nodes.training.classList.toggle("without", !curves.length);
  if (!curves.length) return;
  const names = Object.keys(curves[0].series);
  const before = nodes.series.value;
  swap(nodes.series, { names }, () => names.map((name) => h("option", { value: name }, name.replace(".", ": ").replaceAll("_", " "))));
  nodes.series.value = names.includes(before) ? before : names.find((name) => name.includes("loss") || name.startsWith("violations")) ?? names[0];
  const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((one, other) => one - other);
  const lines = curves.map((curve) => {
    const values = new Map(curve.steps.map((step, at) => [step, curve.series[nodes.series.value]?.[at] ?? null]));
    return steps.map((step) => values.get(step) ?? null);
  });
  charts.training.options.title = `${nodes.series.value.replace(".", ": ").replaceAll("_", " ")} by step`;
  charts.training.update([steps, ...lines], curves.map((curve) => curve.run));
}

function updateVersions(mission) {
  swap(nodes.versions, { mission, chosen, operator: isOperator() }, () => {
    if (!mission?.serving) return h("p", { class: "empty" }, "Known while the mission serves.");
    const models = mission.planner ? [...mission.models, { ...mission.planner, planner: true }] : mission.models;
    const kind = (model) => (model.base ? "base model" : model.planner ? "planner" : `adapter, rank ${model.rank}`);
    const isRouter = mission.name === "router";
    return [
      table("Versions", ["Model", "Kind", "Version", "Loaded", ...(isOperator() && isRouter ? ["Operate"] : [])], models.map((model) => [
        model.name, kind(model), h("code", {}, model.version.slice(0, 24)), model.loaded_unix_s ? moment(model.loaded_unix_s * 1000) : "–",
        ...(isOperator() && isRouter ? [model.base || model.planner ? "" : h("button", { type: "button", id: `unload-${model.name}`, onclick: () => unload(model.name) }, "Unload", h("span", { class: "hidden" }, ` ${model.name}`))] : []),
      ])),
      Object.entries(mission.rejected).map(([name, reason]) => h("p", {}, badge("warn", name), " ", reason)),
    ];
  });
}

function updateOperate(mission) {
  swap(nodes.operate, { name: mission?.serving && mission.name, operator: isOperator() }, () => {
    if (!mission?.serving || !isOperator()) return null;
    const adapter = h("input", { id: "adapter-name", required: true, maxlength: 64, autocomplete: "off" });
    const value = h("input", { id: "strength", type: "range", min: 0, max: 1, step: 0.05, value: "1" });
    const shown = h("output", { for: "strength" }, "1");
    value.addEventListener("input", () => { shown.textContent = value.value; });
    const floor = h("input", { id: "floor", type: "number", min: 0, max: 1, step: 0.05, placeholder: "unchanged" });
    const forms = [h("form", { onsubmit: (event) => setStrength(event, mission.name, value, floor) }, h("h4", {}, "Safety strength"), h("label", { for: "strength" }, "Strength of the safety adapter ", shown), value, h("label", { for: "floor" }, "Floor that no client goes below"), h("div", { class: "row" }, floor, h("button", { type: "submit", class: "primary" }, "Set strength")))];
    if (mission.name === "router") forms.push(h("form", { onsubmit: (event) => load(event, adapter) }, h("h4", {}, "Load an adapter"), h("label", { for: "adapter-name" }, "Folder in the mission's adapter folder"), h("div", { class: "row" }, adapter, h("button", { type: "submit", class: "primary" }, "Load"))));
    return card("Operate", h("div", { class: "columns" }, forms));
  });
}

async function attempt(work, done) {
  try {
    await work();
    toast(done);
    readResults();
  } catch (error) {
    toast(error.message, true);
  }
}

function setStrength(event, mission, value, floor) {
  event.preventDefault();
  const body = { value: Number(value.value), ...(floor.value === "" ? {} : { floor: Number(floor.value) }) };
  attempt(() => post(`v1/fleet/safety/${mission}`, body), `Safety strength of ${mission} is ${value.value}.`);
}

function load(event, input) {
  event.preventDefault();
  attempt(() => post("v1/load_lora_adapter", { lora_name: input.value, lora_path: input.value }), `Adapter ${input.value} is loaded.`);
}

function unload(name) {
  if (!window.confirm(`Unload adapter ${name}? Requests that use it finish first.`)) return;
  attempt(() => post("v1/unload_lora_adapter", { lora_name: name }), `Adapter ${name} is unloaded.`);
}
