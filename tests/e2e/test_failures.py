"""Failure tests of the local fleet: killed processes, closed connections, shutdown."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.conftest import Fleet

pytestmark = [pytest.mark.stage("failures"), pytest.mark.e2e, pytest.mark.slow]
BASE = "smollm2-135m-instruct"
LONG: Any = {
    "model": BASE,
    "prompt": "The fisherman counts his boats: 1, 2, 3, 4, 5, 6,",
    "temperature": 0,
    "max_tokens": 1500,
    # A model in another weight format may end its text sooner, and a fast machine its request.
    "extra_body": {"ignore_eos": True},
}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll a condition of another process until it is true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "condition not met in time"
        time.sleep(0.1)


def ready(fleet: Fleet) -> bool:
    """Return whether the gateway is ready."""
    try:
        return httpx.get(f"{fleet.http}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def try_complete(client: openai.OpenAI, answers: list[str]) -> bool:
    """Send one completion; return False on a 503, and append the text otherwise."""
    try:
        answer = client.completions.create(**{**LONG, "max_tokens": 3})
    except openai.InternalServerError as err:
        assert err.status_code == 503  # noqa: PT017 - any other error is a failure
        return False
    answers.append(answer.choices[0].text)
    return True


def metric(fleet: Fleet, name: str) -> float:
    """Return a metric of the mission, read through its sidecar."""
    page = httpx.get(
        f"http://127.0.0.1:{fleet.environment['ROUTER_METRICS_PORT']}/upstream/metrics", timeout=5
    ).text
    return float(next(line.split()[1] for line in page.splitlines() if line.startswith(f"{name} ")))


def _without_memory(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status without what changes while nothing happens: the memory in use."""
    programs = [
        {key: value for key, value in one.items() if not key.startswith(("pss", "memory"))}
        for one in status["programs"]
    ]
    rest = {key: value for key, value in status.items() if not key.startswith(("pss", "memory"))}
    return {**rest, "programs": programs}


def test_up_twice_is_harmless(fleet: Fleet) -> None:
    """A second start changes nothing; a port that another fleet uses is named."""
    before = _without_memory(fleet.status())
    again = fleet.command("up")
    other = Fleet({**fleet.environment, "RUN_DIR": fleet.environment["RUN_DIR"] + "-2"})
    busy = other.command("up")

    assert again.returncode == 0
    assert _without_memory(fleet.status()) == before
    assert busy.returncode == 1
    assert "GATEWAY_PORT=" in busy.stderr


def test_closed_connection_cancels_the_request(fleet: Fleet, client: openai.OpenAI) -> None:
    """A closed connection ends the sequence in the engine, streamed or not."""
    stream = client.completions.create(**LONG, stream=True)
    next(iter(stream))
    wait_until(lambda: metric(fleet, "bem_router_requests_running") == 1)
    stream.close()
    wait_until(lambda: metric(fleet, "bem_router_requests_running") == 0, 10)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=2).completions.create(**LONG)
    wait_until(lambda: metric(fleet, "bem_router_requests_running") == 0, 10)

    assert metric(fleet, "bem_router_requests_dropped_total") >= 2


def test_feedback_survives_a_gateway_kill(fleet: Fleet, redis: Any) -> None:
    """An acknowledged record survives kill -9, and an idempotency key stores it once."""
    body: dict[str, Any] = {"completion_id": "chatcmpl-1", "rating": "down"}
    body |= {"correction": "Paris", "consent": True}
    key, known = {"Idempotency-Key": "k-1"}, redis.xlen("bem:feedback")
    answers = [
        httpx.post(f"{fleet.http}/v1/feedback", json=body, headers=key, timeout=10)
        for _ in range(2)
    ]
    os.kill(fleet.pid("gateway"), signal.SIGKILL)
    stored = redis.xrange("bem:feedback")[known:]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert [identifier.decode() for identifier, _ in stored] == [answers[0].json()["id"]]
    assert answers[0].json() == answers[1].json()
    body = json.loads(redis.hget("bem:feedback:bodies", stored[0][0]))
    assert body["correction"] == "Paris"
    wait_until(lambda: ready(fleet))


@pytest.mark.parametrize(
    "body",
    [
        {"completion_id": "x"},
        {"rating": "up"},
        {"completion_id": "x", "rating": "sideways"},
        {"completion_id": "x", "rating": "up", "correction": "x" * 40_000},
        {"completion_id": "x", "rating": "up", "colour": "red"},
    ],
)
def test_bad_feedback_is_not_stored(fleet: Fleet, redis: Any, body: dict[str, str]) -> None:
    """Feedback without content or beyond a limit is rejected and not stored."""
    before = redis.xlen("bem:feedback")
    answer = httpx.post(f"{fleet.http}/v1/feedback", json=body, timeout=10)

    assert answer.status_code == 400
    assert redis.xlen("bem:feedback") == before


def test_killed_scorer_blocks_responses_until_restart(fleet: Fleet, client: openai.OpenAI) -> None:
    """Without a scorer the client gets an error and no text; after its restart, completions."""
    stream = iter(client.completions.create(**LONG, stream=True))
    next(stream)
    scorers = psutil.Process(fleet.pid("scorer")).children()
    for process in scorers:
        process.kill()
    with pytest.raises(openai.APIError, match="scorer"):
        list(stream)
    answers: list[str] = []
    wait_until(lambda: try_complete(client, answers))

    assert len(scorers) == 2  # the fast and the deep scorer
    assert answers[0]


def test_every_response_has_an_audit_record(client: openai.OpenAI, redis: Any) -> None:
    """Audit records hold method, action and hash, and no text."""
    for _ in range(3):
        assert list(client.completions.create(**{**LONG, "max_tokens": 4}, stream=True))
    records = [fields for _, fields in redis.xrange("bem:audit")]
    method = b"/bemfleet.router.v1.RouterService/Generate"
    generated = [fields for fields in records if fields[b"method"] == method]

    assert len(generated) >= 4
    assert {b"OK", b"ENDED_EARLY"} <= {fields[b"status"] for fields in generated}
    assert {fields[b"action"] for fields in generated} <= {b"allow", b"block", b"filter"}
    assert all(len(fields[b"text_hmac"]) == 64 for fields in generated)
    assert not any(b"fisherman" in value for fields in records for value in fields.values())


def test_audit_log_is_valid_and_anchored(fleet: Fleet) -> None:
    """The command finds login, key and anchors by itself, and no fault after all the kills."""
    done = fleet.command("audit", "verify")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "hash chain valid" in done.stdout
    assert "anchored up to record" in done.stdout


def test_requests_in_flight_finish_when_the_fleet_stops(
    fleet: Fleet, client: openai.OpenAI
) -> None:
    """Shutdown drains: a stream that is open at SIGTERM completes."""
    stream = iter(client.completions.create(**{**LONG, "max_tokens": 120}, stream=True))
    chunks = [next(stream)]
    stopping = threading.Thread(target=fleet.command, args=("down",))
    stopping.start()
    chunks += list(stream)
    stopping.join(timeout=120)

    assert chunks[-1].choices[0].finish_reason == "length"
    assert not fleet.status()["healthy"]
