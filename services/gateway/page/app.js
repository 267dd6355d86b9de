// Entry of the page: views by the address's hash, theme, sign-in and the connection's state.

import { key } from "./api.js";
import { redraw } from "./charts.js";
import { badge, h, moment, swap } from "./dom.js";
import { follow, isOperator, store, subscribe } from "./store.js";
import * as alerts from "./alerts.js";
import * as canaries from "./canaries.js";
import * as integration from "./integration.js";
import * as memory from "./memory.js";
import * as missions from "./missions.js";
import * as overview from "./overview.js";
import * as playground from "./playground.js";

const VIEWS = { overview, missions, canaries, integration, alerts, memory, playground };
const THEME = "bem-fleet-theme";
const byId = (id) => document.getElementById(id);
let shown = "";

function show(name, focus) {
  shown = VIEWS[name] ? name : "overview";
  for (const view of Object.keys(VIEWS)) byId(view).hidden = view !== shown;
  for (const link of document.querySelectorAll("nav.views a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = byId(`${shown}-title`);
  document.title = `${title.textContent} · BEM Fleet`;
  update();
  if (focus) title.focus({ preventScroll: true });
  if (focus) window.scrollTo(0, 0);
}

function update() {
  const { snapshot, connection, problem } = store;
  byId("live").className = `live ${connection.replace(" ", "-")}`;
  byId("live-text").textContent = connection;
  byId("live").title = problem;
  const caller = snapshot?.caller;
  const isKnown = caller && caller.name !== "anonymous";
  const name = isKnown ? caller.name.slice(0, 24) : "";
  swap(byId("account"), { name, hasKey: Boolean(key.get()) }, () => [key.get() || name ? "Sign out" : "Sign in", name && h("span", { class: "wide" }, ` ${name}`)]);
  document.body.classList.toggle("operator", isOperator());
  const count = (snapshot?.notices ?? []).concat(snapshot?.alerts.data ?? []).filter((one) => one.severity !== "info").length;
  byId("alert-count").hidden = !count;
  byId("alert-count").textContent = count;
  swap(byId("stale"), store.stale, () => store.stale.map((one) => h("p", {}, badge("warn", `since ${moment(one.since)}`), " ", one.reason, " The last known state is shown.")));
  VIEWS[shown]?.update(store);
}

function askForKey(why = "") {
  byId("sign-in").hidden = false;
  byId("sign-in-error").textContent = why;
  byId("key").focus();
}

function start() {
  follow((why) => askForKey(key.get() ? why : ""));
}

byId("account").addEventListener("click", () => {
  if (key.get()) {
    key.set("");
    store.snapshot = null;
    start();
    for (const view of Object.values(VIEWS)) view.signedOut?.();
    update();
  } else askForKey();
});
byId("sign-in-cancel").addEventListener("click", () => { byId("sign-in").hidden = true; });
byId("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key").value = "";
  byId("sign-in").hidden = true;
  start();
  byId("main").focus();
});

function applyTheme(theme) {
  if (theme === "system") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = theme;
  byId("theme").value = theme;
  redraw();
}
byId("theme").addEventListener("change", (event) => {
  localStorage.setItem(THEME, event.target.value);
  applyTheme(event.target.value);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

for (const [name, view] of Object.entries(VIEWS)) view.mount(byId(name));
applyTheme(localStorage.getItem(THEME) ?? "system");
window.addEventListener("hashchange", () => show(location.hash.slice(1), true));
subscribe(update);
show(location.hash.slice(1), false);
start();
