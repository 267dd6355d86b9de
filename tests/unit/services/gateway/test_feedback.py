"""Feedback over HTTP, on a real Redis."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import redis
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import RedisServer

OWN = "chatcmpl-0af7651916cd43dd8448eb211c80319c"


@asynccontextmanager
async def gateway(
    redis_server: RedisServer, folder: Path, **given: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway without a sidecar."""
    (folder / "key").write_text("k")
    settings = GatewaySettings(
        redis_url=redis_server.url,
        missions={"router": f"unix:{folder}/none.sock"},
        feedback_key_file=folder / "key",
        **given,
    )
    app = make_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway/v1"
        ) as client,
    ):
        yield client


async def test_repeated_key_is_stored_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """201 names the record, also after a restart; the key itself is not stored."""
    body, headers = {"completion_id": OWN, "rating": "up"}, {"Idempotency-Key": "jo@example.com"}
    answers = []
    for _ in range(2):
        async with gateway(redis_server, tmp_path) as client:
            answers.append(await client.post("/feedback", json=body, headers=headers))
            empty = await client.post("/feedback", json={"completion_id": OWN})

    with redis.from_url(redis_server.url, decode_responses=True) as stored:
        records, keys = stored.hgetall("bem:feedback:bodies"), stored.keys("*")
    assert [answer.status_code for answer in answers] == [201, 201]
    assert {answer.json()["id"] for answer in answers} == records.keys()
    assert answers[0].json()["kept"] == ["rating"]
    assert [json.loads(body)["rating"] for body in records.values()] == ["up"]
    assert not any("example" in key for key in keys)
    assert empty.status_code == 400


async def test_limits_and_reused_keys_are_named(redis_server: RedisServer, tmp_path: Path) -> None:
    """A full queue is 429 with a delay; a key of other feedback is 400 and stores nothing."""
    bodies = [{"completion_id": OWN, "rating": rating} for rating in ("up", "down")]
    async with gateway(redis_server, tmp_path, feedback_backlog=1) as client:
        first = await client.post("/feedback", json=bodies[0], headers={"Idempotency-Key": "k"})
        other = await client.post("/feedback", json=bodies[1], headers={"Idempotency-Key": "k"})
        full = await client.post("/feedback", json=bodies[1])

    with redis.from_url(redis_server.url) as stored:
        assert stored.xlen("bem:feedback") == 1
    assert (first.status_code, other.status_code, full.status_code) == (201, 400, 429)
    assert other.json()["error"]["message"].startswith("idempotency_key: was used")
    assert int(full.headers["retry-after"]) >= 1


async def test_text_is_not_stored_unscrubbed(redis_server: RedisServer, tmp_path: Path) -> None:
    """Without the sidecar that finds personal data the client gets 503 and nothing is stored."""
    body = {"completion_id": OWN, "comment": "call 212-555-0142", "consent": True}
    async with gateway(redis_server, tmp_path) as client:
        answer = await client.post("/feedback", json=body)

    with redis.from_url(redis_server.url) as stored:
        assert stored.keys("*") == []
    assert answer.status_code == 503
