"""Feedback through gateway and sidecar: no personal data and no secret reaches disk or logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from fleet.testing import RedisServer

from tests.integration.sidecars import scene
from tests.integration.tracks import gateway

pytestmark = pytest.mark.slow
PLANTED = {
    "e-mail": "maria.keller+ward7@kliniknord.example.org",
    "telephone": "+1 415-555-0198",
    "card": "4012 8888 8888 1881",
    "account": "DE89 3704 0044 0532 0130 00",
    "social security": "219-09-9999",
    "network": "203.0.113.77",
    "key": "AKIAIOSFODNN7EXAMPLE",
    "token": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
}
"""Values that no other text here contains."""


def body(value: str, *, consent: bool) -> dict[str, Any]:
    """Return feedback with the value in every field that takes text."""
    text = f"The answer is wrong, write to {value} instead of me."
    return {
        "completion_id": value[:128],
        "rating": "down",
        "correction": text,
        "comment": text,
        "tags": [value[:64]],
        "session": value,
        "consent": consent,
    }


async def test_planted_values_are_nowhere(
    tmp_path: Path, redis_server: RedisServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """With and without consent the stream, the append-only file and the logs are free of them."""
    key = tmp_path / "key"
    key.write_text("k")
    async with (
        scene(tmp_path, redis_server) as fleet,
        gateway(
            redis_server.url,
            missions={"router": fleet.sidecar.address},
            feedback_key_file=key,
        ) as client,
    ):
        codes = []
        for value in PLANTED.values():
            for consent in (True, False):
                headers = {"Idempotency-Key": f"{value} {consent}", "x-request-id": value}
                answer = await client.post(
                    "/v1/feedback", json=body(value, consent=consent), headers=headers
                )
                codes.append(answer.status_code)
    with redis.from_url(redis_server.url, decode_responses=True) as store:
        records = [json.loads(body) for body in store.hvals("bem:feedback:bodies")]
    written = b"".join(
        path.read_bytes() for path in (tmp_path / "redis").rglob("*") if path.is_file()
    )
    logged = "".join(capfd.readouterr())
    agreed = [fields for fields in records if fields["consent"]]
    refused = [fields for fields in records if not fields["consent"]]

    assert codes == [201] * 2 * len(PLANTED)
    assert not [name for name, value in PLANTED.items() if value.encode() in written]
    assert not [name for name, value in PLANTED.items() if value in logged]
    assert len(agreed) == len(refused) == len(PLANTED)
    assert all(fields["correction"].startswith("The answer is wrong") for fields in agreed)
    assert all(fields["redacted"] for fields in (*agreed, *refused))
    assert len({fields["session"] for fields in agreed}) == len(PLANTED)
    assert {(f["correction"], f["comment"], f["session"]) for f in refused} == {("", "", "")}
    assert all(fields["comment_chars"] > 40 for fields in refused)
    assert all(len(fields["tags"]) == 1 for fields in records)
    assert {(f["user"], f["edit"], f["prompt"]) for f in refused} == {("", "", "")}


async def test_feedback_without_personal_data_is_unchanged(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A correction keeps its words: names of places and figures are no personal data."""
    text = "Paris has 2,102,650 people; see chapter 3.1 of the 2024 report."
    given = {"completion_id": "c1", "correction": text, "tags": ["geo"], "consent": True}
    async with (
        scene(tmp_path, redis_server) as fleet,
        gateway(redis_server.url, missions={"router": fleet.sidecar.address}) as client,
    ):
        answer = await client.post("/v1/feedback", json=given)
    with redis.from_url(redis_server.url, decode_responses=True) as store:
        (fields,) = map(json.loads, store.hvals("bem:feedback:bodies"))

    assert answer.json()["kept"] == ["correction", "tags"]
    assert (fields["correction"], fields["tags"], fields["redacted"]) == (text, ["geo"], [])
    assert fields["completion_id"] == "c1"
