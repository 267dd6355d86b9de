"""What the tests say to an installed fleet, from outside and from inside the cluster."""

import json
from typing import Any

import httpx

from tests.cluster.kubernetes_cli import Release

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
# Several at once ask the gateway again and again from inside the cluster, each time as a new
# session; prints how many asked and what failed.
_ASK_ON = """
import concurrent.futures, json, sys, time, urllib.error, urllib.request
url, body, limit = sys.argv[1], sys.argv[2].encode(), time.monotonic() + float(sys.argv[3])
asked, failed = [0], []
def ask(number):
    while time.monotonic() < limit:
        asked[0] += 1
        session = f"{number}-{asked[0]}-{time.monotonic()}"
        headers = {"Content-Type": "application/json", "x-session-id": session}
        try:
            request = urllib.request.Request(url, body or None, headers)
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as err:
            failed.append(f"{time.time():.1f} {err} {err.read()[:300]}")
        except OSError as err:
            failed.append(f"{time.time():.1f} {err}")
        time.sleep(float(sys.argv[5]))
with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(ask, range(int(sys.argv[4]))))
print(json.dumps({"asked": asked[0], "failed": failed}))
"""


def chat(model: str = MODEL, question: str = QUESTION, max_tokens: int = 16) -> dict[str, Any]:
    """Return a request's body."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def answer(release: Release, model: str = MODEL) -> str:
    """Return what the model says through the gateway."""
    with release.forwarded("gateway", 8080) as port:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        replied = httpx.post(url, json=chat(model), timeout=120)
    replied.raise_for_status()
    return str(replied.json()["choices"][0]["message"]["content"])


def give_feedback(release: Release) -> str:
    """Send a thumb up and return its record's id."""
    with release.forwarded("gateway", 8080) as port:
        replied = httpx.post(
            f"http://127.0.0.1:{port}/v1/feedback",
            json={"completion_id": "chatcmpl-1", "rating": "up"},
            timeout=30,
        )
    replied.raise_for_status()
    return str(replied.json()["id"])


def kept(release: Release, record: str) -> bool:
    """Return whether Redis has the record."""
    return record in release.redis("XRANGE", "bem:feedback", record, record)


def ask_on(
    release: Release,
    seconds: float,
    body: dict[str, Any] | None = None,
    *,
    at_once: int = 1,
    pause_s: float = 0.1,
) -> dict[str, Any]:
    """Ask the gateway's Service from another pod for so long.

    Args:
        release: Whose gateway.
        seconds: For how long.
        body: What to ask for; None lists the models.
        at_once: Requests at once.
        pause_s: Between one's answer and its next request.

    Returns:
        ``asked`` and ``failed``: how many, and why some did.
    """
    path = "/v1/chat/completions" if body else "/v1/models"
    url = f"http://{release.name}-gateway:8080{path}"
    asked = [url, json.dumps(body) if body else "", str(seconds), str(at_once), str(pause_s)]
    from_pod = ("exec", f"deploy/{release.name}-validation", "--", "python", "-c", _ASK_ON, *asked)
    counted: dict[str, Any] = json.loads(release.kubectl(*from_pod, timeout_s=seconds + 120))
    return counted
