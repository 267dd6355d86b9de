"""HTTP client of an installed fleet, from outside and from inside the cluster."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx

from tests.cluster.kubernetes_cli import Release, run

MODEL = "smollm2-135m-instruct"
QUESTION = "Name the capital of France."
CLIENTS = "bem-fleet-clients"
"""Namespace of the pod that calls the gateway as a client's does: the fleet's own pods may not."""
# Sends requests to the gateway from inside the cluster by threads, each request in a session
# of its own; prints the number of requests and the failures.
_CONTINUOUS_CLIENT = """
import concurrent.futures, json, sys, time, urllib.error, urllib.request
url, body, limit = sys.argv[1], sys.argv[2].encode(), time.monotonic() + float(sys.argv[3])
sent, failed = [0], []
def send(worker):
    while time.monotonic() < limit:
        sent[0] += 1
        session = f"{worker}-{sent[0]}-{time.monotonic()}"
        headers = {"Content-Type": "application/json", "x-session-id": session}
        headers["Authorization"] = f"Bearer {sys.argv[6]}"
        try:
            request = urllib.request.Request(url, body or None, headers)
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as err:
            failed.append(f"{time.time():.1f} {err} {err.read()[:300]}")
        except OSError as err:
            failed.append(f"{time.time():.1f} {err}")
        time.sleep(float(sys.argv[5]))
with concurrent.futures.ThreadPoolExecutor(int(sys.argv[4])) as pool:
    list(pool.map(send, range(int(sys.argv[4]))))
print(json.dumps({"sent": sent[0], "failed": failed}))
"""


_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def python_spec(image: str) -> dict[str, Any]:
    """Return the spec of a pod that waits, and that a restricted namespace admits."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "python",
                "image": image,
                "command": ["sleep", "infinity"],
                "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}},
                "securityContext": _SECURITY,
            }
        ],
    }


@contextmanager
def client_pods(release: Release) -> Iterator[None]:
    """Run the Deployment ``client`` in `CLIENTS` until the block ends, with validation's image."""
    image = release.pod("validation")["spec"]["containers"][0]["image"]
    labels = {"app": "client"}
    template = {"metadata": {"labels": labels}, "spec": python_spec(image)}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "client", "namespace": CLIENTS},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    run("kubectl", "create", "namespace", CLIENTS)
    try:
        run("kubectl", "apply", "-f", "-", stdin=json.dumps(deployment))
        yield
    finally:
        run("kubectl", "delete", "namespace", CLIENTS)


def chat(model: str = MODEL, question: str = QUESTION, max_tokens: int = 16) -> dict[str, Any]:
    """Return the body of a chat completion request."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def complete(release: Release, model: str = MODEL) -> str:
    """Return the text of a chat completion through the gateway."""
    with release.port_forward("gateway", 8080) as port:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        response = httpx.post(url, json=chat(model), headers=release.headers(), timeout=120)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


@contextmanager
def _memory_client(release: Release) -> Iterator[httpx.Client]:
    with (
        release.port_forward("gateway", 8080) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}/v1/memory", headers=release.headers(), timeout=120
        ) as client,
    ):
        yield client


def read_into_memory(release: Release, session: str) -> None:
    """Read a sentence into a session of the memory."""
    sentence = "The harbour of Lisbon opens at dawn."
    read = {"session": session, "document": "harbours", "text": sentence, "end": True}
    with _memory_client(release) as client:
        client.post("/ingest", json=read).raise_for_status()


def ask_session(release: Release, session: str) -> dict[str, Any]:
    """Ask a session about the sentence, and return the outcome."""
    question = "When does the harbour of Lisbon open?"
    with _memory_client(release) as client:
        answer = client.post(
            "/query", json={"session": session, "question": question, "max_tokens": 4}
        )
    answer.raise_for_status()
    outcome: dict[str, Any] = answer.json()
    return outcome


def ask_memory(release: Release) -> dict[str, Any]:
    """Read a sentence into a new session, ask about it, and return the outcome."""
    session = uuid4().hex
    read_into_memory(release, session)
    return ask_session(release, session)


def ask_mission(release: Release, mission: str) -> dict[str, Any]:
    """Ask a mission a question by its method ``Generate``, and return its answer."""
    with release.port_forward("gateway", 8080) as port:
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/missions/{mission}/Generate",
            json={"prompt": "When does the harbour open?", "max_tokens": 4},
            headers=release.headers(),
            timeout=120,
        )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def give_feedback(release: Release) -> str:
    """Send positive feedback and return the id of its stream record."""
    with release.port_forward("gateway", 8080) as port:
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/feedback",
            json={"completion_id": "chatcmpl-1", "rating": "up"},
            headers=release.headers(),
            timeout=30,
        )
    response.raise_for_status()
    return str(response.json()["id"])


def is_stored(release: Release, record: str) -> bool:
    """Return whether the feedback stream holds a record."""
    return record in release.redis("XRANGE", "bem:feedback", record, record)


def send_continuously(
    release: Release,
    seconds: float,
    body: dict[str, Any] | None = None,
    *,
    path: str = "/v1/chat/completions",
    concurrency: int = 1,
    pause_s: float = 0.1,
) -> dict[str, Any]:
    """Send requests to the gateway's Service from a pod of another namespace.

    Args:
        release: Release whose gateway is called.
        seconds: Duration of the traffic, in seconds.
        body: Body of each request; None lists the models instead.
        path: Path of the requests with a body.
        concurrency: Number of threads that send.
        pause_s: Pause of a thread between a response and its next request, in seconds.

    Returns:
        ``sent``, the number of requests, and ``failed``, a list of errors.
    """
    gateway = f"http://{release.name}-gateway.{release.namespace}:8080"
    url = gateway + (path if body else "/v1/models")
    numbers = [str(seconds), str(concurrency), str(pause_s)]
    options = [url, json.dumps(body) if body else "", *numbers, release.api_key()]
    client = ("-n", CLIENTS)
    run("kubectl", *client, "rollout", "status", "deploy/client")
    command = ["exec", "deploy/client", "--", "python", "-c", _CONTINUOUS_CLIENT]
    printed = run("kubectl", *client, *command, *options, timeout_s=seconds + 120)
    counts: dict[str, Any] = json.loads(printed)
    return counts
