"""Feedback over HTTP, on a real Redis."""

import httpx
import redis
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings
from fleet.testing import RedisServer


async def test_repeated_key_is_stored_once(redis_server: RedisServer) -> None:
    """201 names the stored record; the same idempotency key stores nothing new."""
    app = make_app(GatewaySettings(redis_url=redis_server.url))
    body, headers = {"completion_id": "c1", "rating": "up"}, {"Idempotency-Key": "k"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway/v1"
        ) as client,
    ):
        answers = [await client.post("/feedback", json=body, headers=headers) for _ in range(2)]
        empty = await client.post("/feedback", json={"completion_id": "c1"})

    with redis.from_url(redis_server.url, decode_responses=True) as stored:
        records = stored.xrange("bem:feedback")
    assert [answer.status_code for answer in answers] == [201, 201]
    assert {answer.json()["id"] for answer in answers} == {records[0][0]}
    assert (len(records), records[0][1]["rating"]) == (1, "up")
    assert empty.status_code == 400
