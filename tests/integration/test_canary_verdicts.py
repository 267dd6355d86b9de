"""Validation's verdicts on canaries: from what lies in Redis, the same after a restart."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.testing import RedisServer
from grpc import StatusCode

from tests.integration.tracks import Script, ScriptedMission, mission, socket_of
from tests.integration.validations import refused, validation

ID = "default/router/abc"
TERMS = pb.CanaryTerms(error_margin=0.15, violation_margin=0.15, latency_margin=1.5)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def observed(server: RedisServer, count: int, **changed: Any) -> None:
    """Append pairs as the gateway does."""
    pair = {"se": "0", "ce": "0", "sv": "0", "cv": "0", "sl": "0.010", "cl": "0.010", **changed}
    with redis.from_url(server.url) as client:
        for _ in range(count):
            client.xadd(f"bem:canary:{ID}", pair)


def asked(**more: Any) -> pb.AnalyzeCanaryRequest:
    """Return the question."""
    return pb.AnalyzeCanaryRequest(canary_id=ID, terms=TERMS, **more)


@pytest.mark.parametrize(
    ("changed", "verdict", "reason"),
    [
        ({}, pb.CANARY_VERDICT_PROMOTE, "errors is shown"),
        ({"ce": "1"}, pb.CANARY_VERDICT_ROLLBACK, "tripwire errors"),
        ({"cv": "1"}, pb.CANARY_VERDICT_ROLLBACK, "tripwire violations"),
        ({"cl": "0.030"}, pb.CANARY_VERDICT_ROLLBACK, "latency is worse"),
    ],
)
async def test_pairs_decide(
    tmp_path: Path, redis_server: RedisServer, changed: Any, verdict: int, reason: str
) -> None:
    """A hundred pairs without incident promote; errors, violations or slowness roll back."""
    async with validation(tmp_path, redis_server) as (stub, _):
        observed(redis_server, 5, **changed)
        early = await stub.AnalyzeCanary(asked())
        observed(redis_server, 95, **changed)
        late = await stub.AnalyzeCanary(asked())

    assert early.verdict == pb.CANARY_VERDICT_CONTINUE
    assert (late.verdict, late.pairs > 9) == (verdict, True)
    assert reason in list(late.reasons)


async def test_a_restart_changes_no_verdict(tmp_path: Path, redis_server: RedisServer) -> None:
    """What decides lies in Redis: a new process says the same of the same pairs."""
    observed(redis_server, 60)
    async with validation(tmp_path, redis_server) as (stub, _):
        first = await stub.AnalyzeCanary(asked())
    async with validation(tmp_path, redis_server) as (stub, _):
        second = await stub.AnalyzeCanary(asked())

    assert first == second


async def test_probes_judge_quality(
    tmp_path: Path, folder: Path, redis_server: RedisServer
) -> None:
    """Both sides answer the same questions; a canary that is wrong is rolled back by them alone."""
    stable, canary = ScriptedMission(), ScriptedMission({"": Script(text="wrong")})
    probes = [pb.CanaryProbe(prompt=f"{i}?", answers=["right"]) for i in range(40)]
    where = [socket_of(folder, name) for name in ("stable", "canary")]
    sides = {
        "stable": pb.CanarySide(address=where[0]),
        "canary": pb.CanarySide(address=where[1]),
    }
    async with (
        validation(tmp_path, redis_server) as (stub, _),
        mission(where[0], stable),
        mission(where[1], canary),
    ):
        looks = [await stub.AnalyzeCanary(asked(probes=probes, **sides)) for _ in range(5)]

    assert looks[-1].verdict == pb.CANARY_VERDICT_ROLLBACK
    assert list(looks[-1].reasons) == ["quality is worse"]
    assert stable.asked[""] == canary.asked[""] < 40


async def test_wrong_terms_are_named(tmp_path: Path, redis_server: RedisServer) -> None:
    """The field and its limit are in the error."""
    async with validation(tmp_path, redis_server) as (stub, _):
        latency = await refused(
            stub.AnalyzeCanary(
                pb.AnalyzeCanaryRequest(canary_id=ID, terms=pb.CanaryTerms(latency_margin=0.5))
            )
        )
        nameless = await refused(stub.AnalyzeCanary(pb.AnalyzeCanaryRequest()))
        aimless = await refused(
            stub.AnalyzeCanary(asked(probes=[pb.CanaryProbe(prompt="x", answers=["y"])]))
        )

    assert latency.code is StatusCode.INVALID_ARGUMENT
    assert latency.field == "terms.latency_margin"
    assert "between 1 and 4" in latency.message
    assert nameless.field == "canary_id"
    assert aimless.field == "stable"
