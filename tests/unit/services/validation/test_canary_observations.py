"""Canary observations in a real Redis."""

import math
from typing import Any

import pytest
import redis
from bem_fleet.services.validation.canary_observations import (
    FIRST,
    SCORES_SUFFIX,
    SKIPPED,
    CanaryObservations,
    ProbeScore,
)
from bemfleet.canary.v1 import canary_pb2
from fleet.testing import RedisServer
from fleet.wire import CANARY_STREAM_PREFIX, PAIR_FIELD, PAIR_VERSION

ID = "ns/m/a"


def pair(latency_s: float = 0.25, version: int = PAIR_VERSION) -> bytes:
    """Return a serialised pair."""
    outcome = canary_pb2.Outcome(latency_s=latency_s)
    made = canary_pb2.PairObservation(version=version, stable=outcome, canary=outcome)
    return made.SerializeToString()


def append(
    server: RedisServer, *entries: dict[str, Any], stream: str = f"{CANARY_STREAM_PREFIX}{ID}"
) -> None:
    """Append entries to a stream, the canary's pairs by default."""
    with redis.from_url(server.url) as client:
        for fields in entries:
            client.xadd(stream, fields)


def skipped(reason: str) -> float:
    """Return how many entries were skipped for a reason."""
    return float(SKIPPED.labels(reason)._value.get())


async def test_pairs_are_read_in_order_and_once(redis_server: RedisServer) -> None:
    """The cursor goes past what was read, over several pages, and stays at the end."""
    append(redis_server, *({PAIR_FIELD: pair(i / 8)} for i in range(1200)))
    observations = CanaryObservations(redis_server.url)
    first, cursor = await observations.read_pairs(ID, FIRST)
    second, end = await observations.read_pairs(ID, cursor)
    nothing, same = await observations.read_pairs(ID, end)
    await observations.close()

    assert [p.canary.latency_s for p in [*first, *second]] == [i / 8 for i in range(1200)]
    assert len(first) == 1000
    assert (nothing, same) == ([], end)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"se": "0", "ce": "1"}, "missing_field"),
        ({PAIR_FIELD: b"\xff\xff"}, "malformed"),
        ({PAIR_FIELD: b""}, "unknown_version"),
        ({PAIR_FIELD: pair(version=PAIR_VERSION + 1)}, "unknown_version"),
        ({PAIR_FIELD: pair(math.nan)}, "malformed"),
        ({PAIR_FIELD: pair(math.inf)}, "malformed"),
        ({PAIR_FIELD: pair(-1.0)}, "malformed"),
        (
            {PAIR_FIELD: canary_pb2.PairObservation(version=PAIR_VERSION).SerializeToString()},
            "malformed",
        ),
    ],
)
async def test_what_is_no_pair_is_counted_and_skipped(
    redis_server: RedisServer, fields: dict[str, Any], reason: str
) -> None:
    """The pairs before and after it are read, and the metric names the reason."""
    append(redis_server, {PAIR_FIELD: pair()}, fields, {PAIR_FIELD: pair()})
    before = skipped(reason)
    observations = CanaryObservations(redis_server.url)
    pairs, cursor = await observations.read_pairs(ID, FIRST)
    rest, _ = await observations.read_pairs(ID, cursor)
    await observations.close()

    assert (len(pairs), rest) == (2, [])
    assert skipped(reason) == before + 1


async def test_scores_are_kept_exactly(redis_server: RedisServer) -> None:
    """A restart reads the same numbers, so that the verdict is the same."""
    observations = CanaryObservations(redis_server.url)
    scores = [ProbeScore(3, 1 / 3, 0.1 + 0.2), ProbeScore(4, 0.0, 1.0)]
    for score in scores:
        await observations.append_score(ID, score)
    read, _ = await observations.read_scores(ID, FIRST)
    await observations.close()

    assert read == scores


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"probe": "1", "stable": "0.5"}, "missing_field"),
        ({"probe": "one", "stable": "0.5", "canary": "1"}, "malformed"),
        ({"probe": "1", "stable": "nan", "canary": "1"}, "malformed"),
        ({"probe": "1", "stable": "0.5", "canary": "1.5"}, "malformed"),
        ({"probe": "-1", "stable": "0.5", "canary": "1"}, "malformed"),
    ],
)
async def test_what_is_no_score_is_counted_and_skipped(
    redis_server: RedisServer, fields: dict[str, Any], reason: str
) -> None:
    """The scores before and after it are read, so that one bad writer blocks no canary."""
    good = ProbeScore(1, 0.5, 1.0)
    before = skipped(reason)
    observations = CanaryObservations(redis_server.url)
    await observations.append_score(ID, good)
    append(redis_server, fields, stream=f"{CANARY_STREAM_PREFIX}{ID}{SCORES_SUFFIX}")
    await observations.append_score(ID, good)
    read, _ = await observations.read_scores(ID, FIRST)
    await observations.close()

    assert read == [good, good]
    assert skipped(reason) == before + 1
