// Playground: a chat that streams, with plan, safety verdict, sources, and feedback for mission B.

import { eventsOf, get, post } from "./api.js";
import { badge, card, h, number, seconds, swap, toast } from "./dom.js";

const nodes = {};
let messages = [];
let running = null;
const session = crypto.randomUUID?.() ?? String(Math.random()).slice(2);

export function mount(root) {
  nodes.log = h("div", { class: "chat", role: "log", "aria-label": "Conversation", tabindex: "0" });
  nodes.empty = h("p", { class: "empty" }, "Ask something. The answer shows which version spoke, the plan it ran, and what the safety sidecar said.");
  nodes.prompt = h("textarea", { id: "prompt", rows: 3, required: true, placeholder: "Name the capital of France.", onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); nodes.form.requestSubmit(); } } });
  nodes.send = h("button", { type: "submit", class: "primary", id: "send" }, "Send");
  nodes.stop = h("button", { type: "button", id: "stop", hidden: true, onclick: () => running?.abort() }, "Stop");
  nodes.clear = h("button", { type: "button", onclick: clear }, "New conversation");
  nodes.model = h("select", { id: "model" });
  nodes.memory = h("select", { id: "memory-session" }, h("option", { value: "" }, "none"));
  nodes.tokens = h("input", { id: "max-tokens", type: "number", min: 1, max: 4096, value: "128" });
  nodes.temperature = h("input", { id: "temperature", type: "number", min: 0, max: 2, step: 0.1, value: "0" });
  nodes.strength = h("input", { id: "safety-strength", type: "number", min: 0, max: 1, step: 0.1, placeholder: "default" });
  nodes.form = h("form", { onsubmit: submit, class: "ask" }, h("label", { for: "prompt", class: "hidden" }, "Message"), nodes.prompt, h("div", { class: "row" }, nodes.send, nodes.stop, nodes.clear, h("span", { class: "hint" }, "Enter sends, Shift+Enter breaks the line.")));
  root.append(h("div", { class: "playground" },
    h("section", { class: "card conversation", "aria-label": "Chat" }, nodes.empty, nodes.log, nodes.form),
    card("Settings", h("div", { class: "settings" },
      h("label", { for: "model" }, "Model", nodes.model), h("label", { for: "memory-session" }, "Sources from memory session", nodes.memory),
      h("label", { for: "max-tokens" }, "Most tokens", nodes.tokens), h("label", { for: "temperature" }, "Temperature", nodes.temperature), h("label", { for: "safety-strength" }, "Safety strength, 0 to 1", nodes.strength),
      h("p", { class: "hint" }, "A key can raise its own safety strength, never lower it below the tenant's.")))));
  readModels();
}

async function readModels() {
  try {
    const { data } = await get("v1/models");
    swap(nodes.model, data.map((one) => one.id), () => data.map((one) => h("option", { value: one.id }, one.id)));
  } catch (error) {
    swap(nodes.model, error.message, () => h("option", { value: "" }, "no model: sign in, or wait"));
  }
}

export function update({ snapshot }) {
  if (nodes.model.options.length <= 1 && snapshot) readModels();
  const names = (snapshot?.sessions.data ?? []).map((one) => one.name);
  const before = nodes.memory.value;
  swap(nodes.memory, names, () => ["", ...names].map((name) => h("option", { value: name }, name || "none")));
  nodes.memory.value = names.includes(before) ? before : "";
}

export function signedOut() {
  clear();
}

function clear() {
  running?.abort();
  messages = [];
  nodes.log.replaceChildren();
  nodes.empty.hidden = false;
  nodes.prompt.focus();
}

function bubble(role, text) {
  const body = h("div", { class: "text" }, text);
  const facts = h("div", { class: "facts" });
  const node = h("article", { class: `message ${role}`, "aria-label": role === "user" ? "Your message" : "Answer" }, h("span", { class: "who" }, role === "user" ? "You" : nodes.model.value), body, facts);
  nodes.empty.hidden = true;
  nodes.log.append(node);
  node.scrollIntoView({ block: "nearest" });
  return { node, body, facts };
}

async function submit(event) {
  event.preventDefault();
  const text = nodes.prompt.value.trim();
  if (!text || running) return;
  nodes.prompt.value = "";
  bubble("user", text);
  messages.push({ role: "user", content: text });
  const shown = bubble("assistant", "");
  shown.node.setAttribute("aria-busy", "true");
  running = new AbortController();
  nodes.stop.hidden = false;
  nodes.send.disabled = true;
  try {
    const sources = nodes.memory.value ? await sourcesFor(text) : [];
    await answer(text, sources, shown);
  } catch (error) {
    if (error.name !== "AbortError") shown.facts.append(h("p", {}, badge("bad", "Failed"), " ", error.message));
    else shown.facts.append(h("p", {}, badge("warn", "Stopped")));
    if (messages.at(-1)?.role === "user") messages.pop();
  } finally {
    running = null;
    nodes.stop.hidden = true;
    nodes.send.disabled = false;
    shown.node.removeAttribute("aria-busy");
  }
}

/** Return the cited spans of the memory session for a question. */
async function sourcesFor(question) {
  const found = await post("v1/memory/query", { session: nodes.memory.value, question, max_tokens: 0 }, {}, running.signal);
  return (await found.json()).citations;
}

async function answer(text, sources, shown) {
  const passages = sources.map((one, at) => `[${at + 1}] ${one.text}`).join("\n");
  const sent = passages ? [{ role: "system", content: `Answer from these passages:\n${passages}` }, ...messages] : messages;
  const body = { model: nodes.model.value, messages: sent, stream: true, stream_options: { include_usage: true }, max_tokens: Number(nodes.tokens.value), temperature: Number(nodes.temperature.value) };
  const headers = { "x-session-id": session, ...(nodes.strength.value === "" ? {} : { "bem-safety-strength": nodes.strength.value }) };
  const began = performance.now();
  const reply = await post("v1/chat/completions", body, headers, running.signal);
  const facts = { id: "", version: "", track: reply.headers.get("x-bem-track"), plan: reply.headers.get("x-bem-plan"), filter: null, usage: null, first: null, sources };
  let said = "";
  for await (const event of eventsOf(reply)) {
    if (event.error) throw new Error(event.error.message);
    facts.id = event.id;
    facts.version = event.system_fingerprint || facts.version;
    facts.usage = event.usage ?? facts.usage;
    const choice = event.choices[0];
    if (!choice) continue;
    if (choice.delta.content) {
      facts.first ??= (performance.now() - began) / 1000;
      said += choice.delta.content;
      shown.body.textContent = said;
    }
    if (choice.content_filter_result) facts.filter = choice.content_filter_result;
    facts.reason = choice.finish_reason ?? facts.reason;
  }
  facts.total = (performance.now() - began) / 1000;
  if (!said) shown.body.replaceChildren(h("em", {}, facts.reason === "content_filter" ? "The answer was withheld." : "The answer is empty."));
  messages.push({ role: "assistant", content: said });
  shown.facts.append(described(facts), said || facts.filter ? feedback(facts, text, said) : "");
  shown.node.scrollIntoView({ block: "nearest" });
}

function described(facts) {
  const rows = [["Safety", verdict(facts)], ["Plan", facts.plan ? plan(facts.plan) : h("span", { class: "quiet" }, "none: this model answers without one")]];
  rows.push(["Sources", facts.sources.length ? h("ol", { class: "sources" }, facts.sources.map((one) => h("li", {}, h("q", {}, one.text), " ", h("span", { class: "quiet" }, `${one.document}, characters ${one.begin} to ${one.end}, score ${number(one.score)}`), one.superseded ? [" ", badge("warn", "superseded")] : null))) : h("span", { class: "quiet" }, "none given")]);
  const usage = facts.usage ? `${facts.usage.prompt_tokens} + ${facts.usage.completion_tokens} tokens, ` : "";
  rows.push(["Run", `${facts.track ?? "–"} track, ${usage}first text after ${seconds(facts.first)}, all after ${seconds(facts.total)}, ended by ${facts.reason ?? "–"}`]);
  rows.push(["Version", h("code", {}, facts.version)]);
  return h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function verdict(facts) {
  if (!facts.filter) return badge("good", "allowed by the sidecar");
  const hits = Object.entries(facts.filter).map(([category, one]) => `${category}${typeof one?.score === "number" ? `, score ${number(one.score)} against ${number(one.threshold)}` : ""}${one?.reason ? `: ${one.reason}` : ""}`);
  return h("span", {}, badge("bad", "withheld"), " ", hits.join("; "));
}

/** Return the steps of the header `x-bem-plan`: adapter/scope/span/rank > …; source=…; p=…. */
function plan(text) {
  const [steps, ...rest] = text.split(";");
  return h("span", {}, h("span", { class: "plan" }, steps.split(" > ").map((step) => h("span", { class: "step" }, step.trim()))), h("span", { class: "quiet" }, rest.join(",").trim()));
}

function feedback(facts, prompt, said) {
  const id = facts.id;
  const correction = h("textarea", { id: `correction-${id}`, rows: 2 });
  const consent = h("input", { id: `consent-${id}`, type: "checkbox" });
  const done = h("span", { class: "quiet", role: "status" });
  const send = async (fields) => {
    const kept = consent.checked ? { prompt, answer: said, session, consent: true } : {};
    try {
      const stored = await (await post("v1/feedback", { completion_id: id, ...fields, ...kept })).json();
      done.textContent = `Stored as ${stored.id}; kept: ${stored.kept.join(", ") || "nothing but the id"}.`;
    } catch (error) {
      toast(error.message, true);
    }
  };
  const rate = (rating, label, path) => h("button", { type: "button", "aria-label": label, title: label, class: "thumb", onclick: () => send({ rating }) }, thumb(path));
  return h("div", { class: "feedback" },
    h("div", { class: "row" }, rate("up", "Good answer", false), rate("down", "Bad answer", true), h("label", { class: "inline", for: consent.id }, consent, "May be kept for learning"), done),
    h("details", {}, h("summary", {}, "Correct the answer"), h("form", { onsubmit: (event) => { event.preventDefault(); if (correction.value.trim()) send({ rating: "down", correction: correction.value.trim() }); } }, h("label", { for: correction.id }, "What it should have said"), correction, h("div", { class: "row" }, h("button", { type: "submit" }, "Send correction")))));
}

function thumb(isDown) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 20 20");
  made.setAttribute("aria-hidden", "true");
  if (isDown) made.setAttribute("transform", "rotate(180)");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", "M3 9h3v8H3zM8 17h6.5l2.5-6V9h-5l1-5-1.5-1L8 9z");
  made.append(path);
  return made;
}
