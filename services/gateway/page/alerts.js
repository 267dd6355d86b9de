// Alerts and notices: performance anomalies, resource conflicts, statistical significance, health.

import { absent, badge, card, h, swap } from "./dom.js";

const TITLES = { performance: "Performance anomalies", resource: "Resource conflicts", significance: "Statistical significance", health: "Health" };
const BADGES = { critical: ["bad", "Critical"], warning: ["warn", "Warning"], info: ["idle", "Note"] };
const nodes = {};

export function mount(root) {
  nodes.prometheus = h("div");
  nodes.groups = h("div", { class: "stack" });
  root.append(nodes.groups, card("Alerting rules in Prometheus", nodes.prometheus));
}

export function update({ snapshot }) {
  if (!snapshot) return;
  swap(nodes.groups, snapshot.notices, () => Object.entries(TITLES).map(([kind, title]) => {
    const own = snapshot.notices.filter((one) => one.kind === kind);
    return card(title, own.length ? noticeRows(own) : h("p", { class: "empty" }, badge("good", "None.")));
  }));
  swap(nodes.prometheus, snapshot.alerts, () => {
    if (snapshot.alerts.state !== "ok") return absent(snapshot.alerts, "Prometheus");
    return snapshot.alerts.data.length ? noticeRows(snapshot.alerts.data) : h("p", { class: "empty" }, badge("good", "No rule fires."));
  });
}

/** Return a list of notices. */
export function noticeRows(notices) {
  return h("ul", { class: "notices" }, notices.map((one) => h(
    "li",
    {},
    badge(...BADGES[one.severity]),
    h("span", {}, h("strong", {}, one.subject), " ", one.text, " ", h("span", { class: "quiet" }, `(${one.source})`)),
  )));
}
