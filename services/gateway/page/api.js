// Calls to the gateway with the person's key, and server-sent events over fetch: EventSource cannot
// send a key, and a key in an address would be logged.

const KEY = "bem-fleet-key";

/** Error of the gateway, with its HTTP status. */
export class GatewayError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

function headersWith(more = {}) {
  return key.get() ? { authorization: `Bearer ${key.get()}`, ...more } : more;
}

async function checked(answer) {
  if (answer.ok) return answer;
  const text = await answer.text();
  let message = `status ${answer.status}`;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = text.slice(0, 200) || message;
  }
  throw new GatewayError(answer.status, message);
}

/** Return the JSON of a GET. */
export async function get(path) {
  return (await checked(await fetch(path, { headers: headersWith() }))).json();
}

/** Return the answer to a POST of JSON; its body may be JSON or text. */
export async function post(path, body = {}, headers = {}, signal = undefined) {
  const sent = { "content-type": "application/json", ...headers };
  const options = { method: "POST", headers: headersWith(sent), body: JSON.stringify(body), signal };
  return checked(await fetch(path, options));
}

/** Open a GET stream of events. */
export async function open(path, signal) {
  return checked(await fetch(path, { headers: headersWith(), signal }));
}

/** Yield the JSON of each event of an answer, until its end or `[DONE]`. */
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      const parts = buffer.split("\n\n");
      buffer = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: ?/gm, "");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
