"""Canaries under the default terms: none that an operator would refuse is promoted.

The pairs lie in a real Redis, as the gateway writes them; the terms are the Mission schema's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import redis
from bem_fleet.services.orchestrator.canary_analysis import analysis_request
from bem_fleet.services.validation.canary_analysis import CanaryAnalyzer, CanaryAssessment
from bem_fleet.services.validation.canary_observations import CanaryObservations
from bem_fleet.services.validation.canary_request_parsing import parse_terms
from bem_fleet.services.validation.probe_client import ProbeClient
from bem_fleet.stats.canary_gate import CanaryVerdict
from bemfleet.canary.v1 import canary_pb2
from fleet.access.own_key import OwnKey
from fleet.testing import RedisServer
from fleet.wire import CANARY_STREAM_PREFIX, PAIR_FIELD, PAIR_VERSION

from tests.unit.services.orchestrator.missions import canary_spec

pytestmark = pytest.mark.slow
ID = "ns/anything/abc"
TERMS = parse_terms(analysis_request(canary_spec(image="i").analysis).terms)
Outcome = canary_pb2.Outcome
Pair = tuple[Outcome, Outcome]
ROLLBACK, PROMOTE, CONTINUE = (
    CanaryVerdict.ROLLBACK,
    CanaryVerdict.PROMOTE,
    CanaryVerdict.CONTINUE,
)


def traffic(
    pairs: int,
    *,
    slower: Callable[[int], float] = lambda _: 1.0,
    both: Callable[[int], dict[str, Any]] = lambda _: {},
    canary: Callable[[int], dict[str, Any]] = lambda _: {},
    seed: int = 0,
) -> list[Pair]:
    """Return pairs of the same requests; functions of the index change their outcomes."""
    rng = np.random.default_rng(seed)
    work = rng.lognormal(0, 0.4, pairs)
    noise = rng.lognormal(0, 0.2, (2, pairs))
    return [
        (
            Outcome(latency_s=work[i] * noise[0, i], **both(i)),
            Outcome(latency_s=slower(i) * work[i] * noise[1, i], **{**both(i), **canary(i)}),
        )
        for i in range(pairs)
    ]


def append(server: RedisServer, pairs: Sequence[Pair]) -> None:
    """Append pairs as the gateway does."""
    with redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
        for stable, canary in pairs:
            pair = canary_pb2.PairObservation(version=PAIR_VERSION, stable=stable, canary=canary)
            pipeline.xadd(f"{CANARY_STREAM_PREFIX}{ID}", {PAIR_FIELD: pair.SerializeToString()})
        pipeline.execute()


async def verdict_after(
    server: RedisServer, *parts: Sequence[Pair], restart: bool = False
) -> CanaryAssessment:
    """Return the verdict after appending parts, each analyzed as soon as it is there.

    Args:
        server: Redis of the observations.
        parts: Pairs in their order.
        restart: Whether a new process analyzes each part.
    """
    client = ProbeClient(timeout_s=1, own_key=OwnKey(None))
    observations = CanaryObservations(server.url)
    analyzer = CanaryAnalyzer(observations, client)
    for part in parts:
        append(server, part)
        if restart:
            await observations.close()
            observations = CanaryObservations(server.url)
            analyzer = CanaryAnalyzer(observations, client)
        found = await analyzer.analyze(ID, TERMS)
    await observations.close()
    return found


def every(n: int, then: Any, otherwise: Any) -> Callable[[int], Any]:
    """Return a function that is ``then`` at every n-th index."""
    return lambda i: then if i % n == n - 1 else otherwise


FAILED, WITHHELD, EMPTY = {"failed": True}, {"withheld": True}, {"empty": True}
SILENT = {
    "both fail": {"both": every(1, FAILED, {})},
    "both withhold and the canary is 50 times slower": {
        "both": every(1, WITHHELD, {}),
        "slower": every(1, 50.0, 1.0),
    },
    "both are empty": {"both": every(1, EMPTY, {})},
    "one fails, the other withholds": {
        "both": every(1, WITHHELD, {}),
        "canary": every(1, {"failed": True, "withheld": False}, {}),
    },
    "every fifth is answered": {"both": every(5, {}, FAILED)},
}


@pytest.mark.parametrize("example", SILENT.values(), ids=SILENT)
async def test_silence_on_both_sides_is_no_equality(
    redis_server: RedisServer, example: dict[str, Any]
) -> None:
    """A canary that answers little is not promoted because stable answers as little."""
    found = await verdict_after(redis_server, traffic(2_000, **example))

    assert found.verdict is CONTINUE
    assert any(reason.startswith("answered is not shown yet") for reason in found.reasons)
    assert found.evidence["answered"].p_shown == 1


HARMFUL = {
    "half withheld and 40 % slower": (
        {"both": every(2, WITHHELD, {}), "slower": every(1, 1.4, 1.0)},
        "latency is worse",
    ),
    "every tenth 100 times slower": ({"slower": every(10, 100.0, 1.0)}, "latency p9"),
    "every fourteenth 20 times slower": ({"slower": every(14, 20.0, 1.0)}, "latency p9"),
    "+20 % latency": ({"slower": every(1, 1.2, 1.0)}, "latency"),
    "twice as slow": ({"slower": every(1, 2.0, 1.0)}, "latency"),
    "empty answers": ({"canary": every(1, EMPTY, {})}, "errors"),
    "every sixth empty": ({"canary": every(6, EMPTY, {})}, "tripwire errors"),
    "every eighth truncated": ({"canary": every(8, {"truncated": True}, {})}, "tripwire errors"),
    "every tenth withheld": ({"canary": every(10, WITHHELD, {})}, "violations"),
}


@pytest.mark.parametrize(("example", "reason"), HARMFUL.values(), ids=HARMFUL)
async def test_harm_is_rolled_back(
    redis_server: RedisServer, example: dict[str, Any], reason: str
) -> None:
    """What an operator would not accept ends the canary, and the reason names it."""
    found = await verdict_after(redis_server, traffic(3_000, **example))

    assert found.verdict is ROLLBACK
    assert any(reason in one for one in found.reasons)


async def test_rare_stalls_are_not_promoted(redis_server: RedisServer) -> None:
    """Every hundredth request 100 times slower is one point more of slow requests: the margin."""
    found = await verdict_after(redis_server, traffic(4_000, slower=every(100, 100.0, 1.0)))

    assert found.verdict is not PROMOTE


@pytest.mark.parametrize("period", [12, 13])
async def test_eight_percent_errors_end_within_100_pairs(
    redis_server: RedisServer, period: int
) -> None:
    """Against a stable without errors; alone before that, the pairs show nothing."""
    found = await verdict_after(redis_server, traffic(110, canary=every(period, FAILED, {})))

    assert found.verdict is ROLLBACK
    assert found.pairs <= 100
    assert found.reasons == ("tripwire errors",)


@pytest.mark.parametrize("seed", [0, 1])
async def test_a_good_canary_is_promoted(redis_server: RedisServer, seed: int) -> None:
    """The margins leave room for the noise of equal tracks."""
    found = await verdict_after(redis_server, traffic(4_000, seed=seed))

    assert found.verdict is PROMOTE
    assert 500 < found.pairs < 3_000


RESTARTS = {
    "1.9 times slower, then 0.6": (lambda i: 1.9 if i < 200 else 0.6, {}),
    "1.3 times slower, then 0.8": (lambda i: 1.3 if i < 300 else 0.8, {}),
    "a burst of errors, then none": (lambda _: 1.0, {"canary": lambda i: FAILED if i < 30 else {}}),
}


@pytest.mark.parametrize(("slower", "more"), RESTARTS.values(), ids=RESTARTS)
async def test_a_restart_changes_no_verdict(
    redis_server: RedisServer, slower: Callable[[int], float], more: dict[str, Any]
) -> None:
    """One process, one for each part, and one that finds all pairs at once say the same."""
    pairs = traffic(1_000, slower=slower, **more)
    cuts = [0, 3, 200, 207, 555, 1_000]
    parts = [pairs[start:end] for start, end in pairwise(cuts)]
    found = []
    for restart in (False, True):
        found.append(await verdict_after(redis_server, *parts, restart=restart))
        with redis.from_url(redis_server.url) as client:
            client.flushdb()
    found.append(await verdict_after(redis_server, pairs))

    assert found[0].verdict is ROLLBACK
    # By their texts: a metric without evidence has the mean NaN, which equals nothing.
    assert repr(found[0]) == repr(found[1]) == repr(found[2])


async def test_a_decision_outlives_its_pairs(redis_server: RedisServer) -> None:
    """The stream is cut off in time: a decision stays, and no other is made of what is left."""
    bad, good = traffic(300, slower=lambda _: 3.0), traffic(2_000)
    decided = await verdict_after(redis_server, bad)
    with redis.from_url(redis_server.url) as client:
        client.xtrim(f"{CANARY_STREAM_PREFIX}{ID}", maxlen=0, approximate=False)
        kept = await verdict_after(redis_server, good, restart=True)
        client.flushdb()
        await verdict_after(redis_server, traffic(20))
        client.xtrim(f"{CANARY_STREAM_PREFIX}{ID}", maxlen=10, approximate=False)
    undecided = await verdict_after(redis_server, good, restart=True)

    assert repr(kept) == repr(decided)
    assert decided.verdict is ROLLBACK
    assert undecided.verdict is CanaryVerdict.INCONCLUSIVE
    assert "the first pairs are gone" in undecided.reasons[0]
