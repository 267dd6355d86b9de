"""Withheld and redacted answers over HTTP: gateway, real sidecar and a canned mission."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import RedisServer
from fleet.wire import CONTENT_FILTER

from tests.integration.sidecars import Scene, scene
from tests.integration.test_guard import JAILBREAK
from tests.integration.test_sidecar import BAD, CLEAN

USER = {"role": "user", "content": "Tell me about the harbour."}
ATTACK = {"role": "user", "content": JAILBREAK}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
async def fleet(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Scene]:
    """A mission behind its sidecar."""
    async with scene(tmp_path, redis_server) as running:
        yield running


@pytest.fixture
async def http(fleet: Scene) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's application."""
    app = make_app(GatewaySettings(missions={"router": fleet.sidecar.address}))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=120) as client,
    ):
        yield client


def chunks(body: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream."""
    events = [line.removeprefix("data: ") for line in body.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


@pytest.mark.parametrize("count", [1, 2])
async def test_blocked_request_says_why_and_is_counted(
    http: httpx.AsyncClient, fleet: Scene, count: int
) -> None:
    """Category, score and reason in the body and a header; the mission generated nothing."""
    asked = {"model": "m", "messages": [ATTACK], "n": count}
    answer = await http.post(CHAT, json=asked)
    body = answer.json()
    result = body["choices"][0]["content_filter_result"]
    ((category, entry),) = result.items()

    assert (answer.status_code, fleet.router.calls) == (200, 0)
    assert [one["finish_reason"] for one in body["choices"]] == ["content_filter"] * count
    assert entry["filtered"]
    assert entry["side"] == "request"
    assert entry["score"] >= entry["threshold"]
    assert entry["constraint"] in entry["reason"]
    assert body["choices"][0]["content_filter_results"] == result
    assert [one["prompt_index"] for one in body["prompt_filter_results"]] == [0]
    assert f"category={category}" in answer.headers[CONTENT_FILTER]
    assert body["usage"]["prompt_tokens"] == len(JAILBREAK.split())
    assert body["system_fingerprint"] == "v1"
    assert JAILBREAK[:20] not in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_withheld_answer_says_why_and_is_counted(
    http: httpx.AsyncClient, fleet: Scene, stream: bool
) -> None:
    """What the mission computed is counted, and the text is nowhere."""
    fleet.router.pieces = [CLEAN, BAD]
    asked = {
        "model": "m",
        "prompt": "The harbour",
        "stream": stream,
        "logprobs": 3,
        "stream_options": {"include_usage": True} if stream else None,
    }
    answer = await http.post(TEXT, json=asked)
    bodies = chunks(answer.text) if stream else [answer.json()]
    ends = [
        choice for body in bodies for choice in body["choices"] if "content_filter_result" in choice
    ]
    usage = bodies[-1]["usage"]

    assert [end["finish_reason"] for end in ends] == ["content_filter"]
    assert ends[0]["content_filter_result"]["toxicity"]["side"] == "response"
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 3)
    assert bodies[0]["system_fingerprint"] == "v1"
    assert "fuck" not in answer.text
    assert stream or "category=toxicity" in answer.headers[CONTENT_FILTER]


async def test_blocked_stream_names_the_reason_in_its_header(http: httpx.AsyncClient) -> None:
    """Nothing was sent before, so the header can still say it."""
    answer = await http.post(CHAT, json={"model": "m", "messages": [ATTACK], "stream": True})
    last = chunks(answer.text)[-1]

    assert last["choices"][0]["content_filter_result"]
    assert "side=request" in answer.headers[CONTENT_FILTER]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_redacted_text_is_in_no_member_of_any_event(
    http: httpx.AsyncClient, fleet: Scene, path: str, stream: bool
) -> None:
    """Text, tokens, their bytes and their alternatives, of two choices."""
    secret = "glpat-Kp3vN8sWx0RtY6bQz1Lm"
    whole = f"{CLEAN}The token is {secret} and lines follow. {CLEAN}"
    fleet.router.pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    asked: dict[str, Any] = {"model": "m", "n": 2, "stream": stream}
    if path == CHAT:
        asked |= {"messages": [USER], "logprobs": True, "top_logprobs": 2}
    else:
        asked |= {"prompt": "The harbour", "logprobs": 2}
    answer = await http.post(path, json=asked)
    bodies = chunks(answer.text) if stream else [answer.json()]
    choices = [choice for body in bodies for choice in body["choices"] if choice["index"] == 1]
    texts = [_text(choice) for choice in choices]
    spelled = "".join(token for choice in choices for token in _tokens(choice))

    assert "".join(texts) == whole.replace(secret, "[GITLAB_TOKEN]")
    assert spelled == "".join(texts)
    for part in (secret[at : at + 5] for at in range(len(secret) - 4)):
        assert part not in answer.text
        assert json.dumps(list(part.encode()))[1:-1] not in answer.text


def _text(choice: dict[str, Any]) -> str:
    message = choice.get("message") or choice.get("delta") or {}
    text: str = choice.get("text") or message.get("content") or ""
    return text


def _tokens(choice: dict[str, Any]) -> list[str]:
    logprobs = choice.get("logprobs") or {}
    names: list[str] = logprobs.get("tokens") or [
        bytes(one["bytes"]).decode() for one in logprobs.get("content") or ()
    ]
    return names
