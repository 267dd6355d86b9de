"""Canary analysis over the wire: verdicts from Redis, the same after a restart."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from bemfleet.canary.v1 import canary_pb2
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.testing import RedisServer
from fleet.wire import CANARY_STREAM_PREFIX, PAIR_FIELD, PAIR_VERSION
from grpc import StatusCode

from tests.integration.tracks import Script, ScriptedMission, mission, socket_of
from tests.integration.validations import refused, validation

ID = "default/router/abc"
TERMS = pb.CanaryTerms(
    alpha=0.05,
    max_pairs=20_000,
    error_margin=0.15,
    violation_margin=0.15,
    latency_margin=1.5,
    quality_margin=0.05,
    error_limit=10,
    violation_limit=10,
    min_answered=0.9,
    tail_ratio=1.25,
    p95_margin=0.15,
    p99_margin=0.15,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def append_pairs(
    server: RedisServer, count: int, stable: Mapping[str, Any] | None = None, **canary: Any
) -> None:
    """Append pairs as the gateway does; keywords change the canary's outcome."""
    pair = canary_pb2.PairObservation(
        version=PAIR_VERSION,
        stable=canary_pb2.Outcome(**{"latency_s": 0.01, **(stable or {})}),
        canary=canary_pb2.Outcome(**{"latency_s": 0.01, **canary}),
    )
    append_entries(server, count, {PAIR_FIELD: pair.SerializeToString()})


def append_entries(server: RedisServer, count: int, fields: dict[str, Any]) -> None:
    """Append entries to the canary's stream."""
    with redis.from_url(server.url) as client:
        for _ in range(count):
            client.xadd(f"{CANARY_STREAM_PREFIX}{ID}", fields)


def request(**more: Any) -> pb.AnalyzeCanaryRequest:
    """Return a request for the verdict."""
    return pb.AnalyzeCanaryRequest(canary_id=ID, terms=TERMS, **more)


CUT = {"stable": {"truncated": True}}


@pytest.mark.parametrize(
    ("changed", "verdict", "reason"),
    [
        ({}, pb.CANARY_VERDICT_PROMOTE, "errors is shown"),
        ({"failed": True}, pb.CANARY_VERDICT_ROLLBACK, "errors is worse"),
        ({"empty": True}, pb.CANARY_VERDICT_ROLLBACK, "errors is worse"),
        ({"truncated": True}, pb.CANARY_VERDICT_ROLLBACK, "errors is worse"),
        # Clients that ask for few tokens are nobody's error, and hide none of the canary.
        ({**CUT, "truncated": True}, pb.CANARY_VERDICT_PROMOTE, "errors is shown"),
        ({**CUT, "failed": True}, pb.CANARY_VERDICT_ROLLBACK, "errors is worse"),
        ({**CUT, "empty": True}, pb.CANARY_VERDICT_ROLLBACK, "errors is worse"),
        ({**CUT, "withheld": True}, pb.CANARY_VERDICT_ROLLBACK, "violations is worse"),
        ({"withheld": True}, pb.CANARY_VERDICT_ROLLBACK, "violations is worse"),
        ({"latency_s": 0.03}, pb.CANARY_VERDICT_ROLLBACK, "latency is worse"),
    ],
)
async def test_pairs_decide(
    tmp_path: Path, redis_server: RedisServer, changed: Any, verdict: int, reason: str
) -> None:
    """A hundred pairs without incident promote; errors, violations or slowness roll back."""
    async with validation(tmp_path, redis_server) as (stub, _):
        append_pairs(redis_server, 5, **changed)
        early = await stub.AnalyzeCanary(request())
        append_pairs(redis_server, 95, **changed)
        late = await stub.AnalyzeCanary(request())

    assert early.verdict == pb.CANARY_VERDICT_CONTINUE
    assert (late.verdict, late.pairs > 9) == (verdict, True)
    assert reason in list(late.reasons)


async def test_a_restart_changes_no_verdict(tmp_path: Path, redis_server: RedisServer) -> None:
    """What decides lies in Redis: a new process says the same of the same pairs."""
    append_pairs(redis_server, 60)
    async with validation(tmp_path, redis_server) as (stub, _):
        first = await stub.AnalyzeCanary(request())
    async with validation(tmp_path, redis_server) as (stub, _):
        second = await stub.AnalyzeCanary(request())

    assert first == second


async def test_probes_judge_quality(
    tmp_path: Path, folder: Path, redis_server: RedisServer
) -> None:
    """Both sides answer the same questions; a canary that is wrong is rolled back by them alone."""
    stable, canary = ScriptedMission(), ScriptedMission({"": Script(text="wrong")})
    probes = [pb.CanaryProbe(prompt=f"{i}?", answers=["right"]) for i in range(40)]
    where = [socket_of(folder, name) for name in ("stable", "canary")]
    named = {"mission": "router", "canary_has_pods": True}
    addresses = {"missions": {"router": where[0]}, "canaries": {"router": where[1]}}
    async with (
        validation(tmp_path, redis_server, **addresses) as (stub, _),
        mission(where[0], stable),
        mission(where[1], canary),
    ):
        looks = [await stub.AnalyzeCanary(request(probes=probes, **named)) for _ in range(5)]

    assert looks[-1].verdict == pb.CANARY_VERDICT_ROLLBACK
    assert list(looks[-1].reasons) == ["quality is worse"]
    assert stable.asked[""] == canary.asked[""] < 40


async def test_wrong_terms_are_named(tmp_path: Path, redis_server: RedisServer) -> None:
    """The field and its limit are in the error."""
    async with validation(tmp_path, redis_server) as (stub, _):
        slow = pb.CanaryTerms()
        slow.CopyFrom(TERMS)
        slow.latency_margin = 0.5
        latency = await refused(
            stub.AnalyzeCanary(pb.AnalyzeCanaryRequest(canary_id=ID, terms=slow))
        )
        termless = await refused(stub.AnalyzeCanary(pb.AnalyzeCanaryRequest(canary_id=ID)))
        nameless = await refused(stub.AnalyzeCanary(pb.AnalyzeCanaryRequest()))
        aimless = await refused(
            stub.AnalyzeCanary(request(probes=[pb.CanaryProbe(prompt="x", answers=["y"])]))
        )

    assert latency.code is StatusCode.INVALID_ARGUMENT
    assert latency.field == "terms.latency_margin"
    assert "between 1 and 4" in latency.message
    assert (termless.field, termless.code) == ("terms.alpha", StatusCode.INVALID_ARGUMENT)
    assert nameless.field == "canary_id"
    assert aimless.field == "mission"


async def test_unreadable_entries_never_block_a_canary(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Entries of another version, of another writer, or cut off are skipped and counted."""
    newer = canary_pb2.PairObservation(version=PAIR_VERSION + 1).SerializeToString()
    for fields in ({PAIR_FIELD: newer}, {PAIR_FIELD: b"\xff\xff"}, {"se": "1", "ce": "1"}):
        append_entries(redis_server, 20, fields)
    append_pairs(redis_server, 100)
    async with validation(tmp_path, redis_server) as (stub, _):
        response = await stub.AnalyzeCanary(request())

    assert response.verdict == pb.CANARY_VERDICT_PROMOTE
    assert 9 < response.pairs <= 100
