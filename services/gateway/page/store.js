// State of the page: the latest snapshot, the history of each process and of each canary's evidence.

import { eventsOf, get, GatewayError, open } from "./api.js";

const KEPT_POINTS = 450;
const RETRY_MS = [1000, 2000, 5000];

export const store = {
  snapshot: null,
  results: null,
  history: new Map(), // points by process
  evidence: new Map(), // by canary id: [{ pairs, unixMs, metrics }]
  connection: "connecting",
  problem: "",
  stale: [], // sources that do not answer, whose last state is shown
};
const listeners = new Set();

/** Call a function after every change. */
export function subscribe(listener) {
  listeners.add(listener);
}

export function notify() {
  for (const listener of listeners) listener(store);
}

/** Return whether the person is an operator. */
export function isOperator() {
  return store.snapshot?.caller.role === "operator";
}

/** Return the newest point of a process; an empty object without one. */
export function latest(process) {
  return store.history.get(process)?.at(-1) ?? {};
}

let aborter = null;

/** Follow the fleet until `stop`; connects again after a lost connection. */
export async function follow(onRefused) {
  stop();
  const own = (aborter = new AbortController());
  for (let attempt = 0; !own.signal.aborted; attempt += 1) {
    try {
      const answer = await open("v1/fleet/events", own.signal);
      readResults();
      for await (const snapshot of eventsOf(answer)) {
        attempt = 0;
        take(snapshot);
      }
      store.problem = "the gateway has ended the stream";
    } catch (error) {
      if (own.signal.aborted) return;
      if (error instanceof GatewayError && (error.status === 401 || error.status === 403)) {
        store.connection = "signed out";
        store.problem = error.message;
        notify();
        onRefused(error.message);
        return;
      }
      store.problem = error.message;
    }
    store.connection = "reconnecting";
    notify();
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(attempt, 2)]));
  }
}

export function stop() {
  aborter?.abort();
}

/** Read gates and curves; they change seldom. */
export async function readResults() {
  try {
    store.results = await get("v1/fleet/results");
  } catch (error) {
    store.results = { gates: [], curves: [], reason: error.message };
  }
  notify();
}

const PARTS = ["control", "claims", "sessions"];

/** Keep what a source said last while it does not answer; the page says since when. */
function keepLast(snapshot) {
  store.stale = [];
  for (const name of PARTS) {
    const before = store.snapshot?.[name];
    if (snapshot[name].state === "unavailable" && before?.data) {
      const since = before.since ?? store.snapshot.unix_ms;
      store.stale.push({ reason: snapshot[name].reason, since });
      snapshot[name] = { ...before, since };
    }
  }
}

function take(snapshot) {
  keepLast(snapshot);
  store.snapshot = snapshot;
  store.connection = "live";
  store.problem = "";
  for (const process of snapshot.metrics.data?.processes ?? []) {
    const points = store.history.get(process.name) ?? [];
    const last = points.at(-1)?.unix_ms ?? 0;
    points.push(...process.points.filter((point) => point.unix_ms > last));
    store.history.set(process.name, points.slice(-KEPT_POINTS));
  }
  for (const mission of snapshot.control.data?.missions ?? []) {
    if (mission.canary) keepEvidence(mission.canary, snapshot.unix_ms);
  }
  notify();
}

function keepEvidence(canary, unixMs) {
  const kept = store.evidence.get(canary.id) ?? [];
  const pairs = Number(canary.pairs);
  if (canary.evidence.length && (!kept.length || kept.at(-1).pairs !== pairs)) {
    const metrics = Object.fromEntries(canary.evidence.map((one) => [one.metric, one]));
    kept.push({ pairs, unixMs, metrics });
  }
  store.evidence.set(canary.id, kept.slice(-KEPT_POINTS));
}
