// Sessions of mission memory: what each still knows, reading documents, asking with citations.

import { post } from "./api.js";
import { absent, badge, bytes, card, h, moment, number, percent, swap, table, toast } from "./dom.js";
import { meter } from "./overview.js";

const nodes = {};
const known = new Map(); // coverage by session

export function mount(root) {
  nodes.sessions = h("div");
  nodes.details = h("div");
  const session = h("input", { id: "ingest-session", required: true, maxlength: 64, autocomplete: "off", placeholder: "notes" });
  const name = h("input", { id: "ingest-document", required: true, maxlength: 120, autocomplete: "off", placeholder: "handbook" });
  const text = h("textarea", { id: "ingest-text", required: true, rows: 5 });
  nodes.read = card("Read a document", h("form", { onsubmit: (event) => ingest(event, session, name, text) },
    h("div", { class: "fields" }, h("label", { for: "ingest-session" }, "Session", session), h("label", { for: "ingest-document" }, "Document", name)),
    h("label", { for: "ingest-text" }, "Text"), text, h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Read into memory"))));
  root.append(card("Your sessions", nodes.sessions), nodes.details, nodes.read);
}

export function signedOut() {
  known.clear();
  nodes.details.replaceChildren();
}

export function update({ snapshot }) {
  const part = snapshot?.sessions;
  nodes.read.hidden = part?.state === "absent";
  swap(nodes.sessions, part, () => {
    if (part?.state !== "ok") return absent(part, "mission memory");
    return table("Your sessions", ["Session", "Expires", "Operate"], part.data.map((one) => [
      one.name, moment(one.expires_unix_s * 1000),
      h("span", { class: "row" }, h("button", { type: "button", id: `show-${one.name}`, onclick: () => show(one.name) }, "Show", h("span", { class: "hidden" }, ` ${one.name}`)), h("button", { type: "button", class: "danger", id: `forget-${one.name}`, onclick: () => forget(one.name) }, "Forget", h("span", { class: "hidden" }, ` ${one.name}`))),
    ]), "No session yet: read a document below.");
  });
}

async function show(session) {
  try {
    const found = await (await post("v1/memory/coverage", { session, limit: 200 })).json();
    known.set(session, found);
    const spans = found.spans ?? [];
    nodes.details.replaceChildren(card(`Session ${session}`,
      meter("Sentences kept", found.kept, found.sentences, `${number(found.kept)} of ${number(found.sentences)} read, budget ${bytes(found.budget_bytes)}`),
      table("Documents", ["Document", "Characters", "State"], found.documents.map((one) => [one.name, number(one.characters), one.complete ? badge("good", "Complete") : badge("warn", "In parts")])),
      table("Spans that are still answerable", ["Document", "Characters", "Confidence", "State"], spans.slice(0, 50).map((one) => [one.document, `${one.begin} to ${one.end}`, percent(one.confidence), one.superseded ? badge("warn", "Superseded") : badge("good", "Current")]), "Nothing is kept."),
      h("p", {}, h("a", { href: "#playground" }, "Ask about it in the playground"))));
  } catch (error) {
    toast(error.message, true);
  }
}

async function forget(session) {
  if (!window.confirm(`Forget session ${session} and all its documents?`)) return;
  try {
    await post("v1/memory/forget", { session });
    known.delete(session);
    nodes.details.replaceChildren();
    toast(`Session ${session} is forgotten; the list follows within ten seconds.`);
  } catch (error) {
    toast(error.message, true);
  }
}

async function ingest(event, session, name, text) {
  event.preventDefault();
  try {
    const done = await (await post("v1/memory/ingest", { session: session.value, document: name.value, text: text.value })).json();
    toast(`${done.sentences} sentences read, ${done.kept} kept.`);
    text.value = "";
    show(session.value);
  } catch (error) {
    toast(error.message, true);
  }
}
