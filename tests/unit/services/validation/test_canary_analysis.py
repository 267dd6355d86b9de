"""Canary analysis over real streams in Redis."""

from pathlib import Path
from typing import Any

import pytest
import redis
from bem_fleet.services.validation.canary_analysis import CanaryAnalyzer, probe_order
from bem_fleet.services.validation.canary_observations import CanaryObservations, ProbeScore
from bem_fleet.services.validation.probe_client import ProbeClient, ProbeTarget
from bem_fleet.stats.canary_gate import CanaryVerdict
from bem_fleet.stats.canary_terms import AnalysisTerms
from bemfleet.canary.v1 import canary_pb2
from bemfleet.validation.v1 import validation_pb2 as pb
from fleet.access.own_key import OwnKey
from fleet.errors import UnavailableError
from fleet.testing import RedisServer
from fleet.wire import CANARY_STREAM_PREFIX, PAIR_FIELD, PAIR_VERSION

ID = "ns/anything/abc"
TERMS = AnalysisTerms(
    alpha=0.05,
    max_pairs=20_000,
    error_margin=0.15,
    violation_margin=0.15,
    latency_margin=1.5,
    quality_margin=0.3,
    error_limit=5,
    violation_limit=5,
    min_answered=0.9,
    tail_ratio=1.25,
    p95_margin=0.15,
    p99_margin=0.15,
)
PROBES = [pb.CanaryProbe(prompt=f"{i}?", answers=["right"]) for i in range(20)]


class Answers(ProbeClient):
    """Answers of both tracks, by address."""

    def __init__(self, **texts: str | None) -> None:
        super().__init__(timeout_s=1, own_key=OwnKey(None))
        self.texts, self.asked = texts, 0

    async def answer(self, target: ProbeTarget, prompt: str) -> str | None:  # noqa: ARG002
        """Return the text of an address."""
        self.asked += 1
        return self.texts[target.address]


def append_pairs(server: RedisServer, count: int, **canary: Any) -> None:
    """Append pairs as the gateway does."""
    pair = canary_pb2.PairObservation(
        version=PAIR_VERSION,
        stable=canary_pb2.Outcome(latency_s=0.01),
        canary=canary_pb2.Outcome(**{"latency_s": 0.01, **canary}),
    )
    with redis.from_url(server.url) as client:
        for _ in range(count):
            client.xadd(f"{CANARY_STREAM_PREFIX}{ID}", {PAIR_FIELD: pair.SerializeToString()})


async def test_the_documented_example_is_what_happens(redis_server: RedisServer) -> None:
    """Five pairs show nothing, about 60 promote, and failures roll back."""
    observations = CanaryObservations(redis_server.url)
    append_pairs(redis_server, 5)
    early = await CanaryAnalyzer(observations, Answers()).analyze(ID, TERMS)
    append_pairs(redis_server, 65)
    late = await CanaryAnalyzer(observations, Answers()).analyze(ID, TERMS)
    await observations.close()

    assert (early.verdict, late.verdict) == (CanaryVerdict.CONTINUE, CanaryVerdict.PROMOTE)
    assert 50 <= late.pairs <= 70


async def test_failures_hit_the_tripwire(redis_server: RedisServer) -> None:
    """Errors that stable does not have end the canary after a few dozen pairs."""
    observations = CanaryObservations(redis_server.url)
    append_pairs(redis_server, 45, failed=True)
    decision = await CanaryAnalyzer(observations, Answers()).analyze(ID, TERMS)
    await observations.close()

    assert decision.verdict is CanaryVerdict.ROLLBACK
    assert 10 <= decision.pairs <= 40


async def test_a_final_verdict_stays(redis_server: RedisServer) -> None:
    """Pairs after a promotion change nothing, in this process and in the next."""
    observations = CanaryObservations(redis_server.url)
    analyzer = CanaryAnalyzer(observations, Answers())
    append_pairs(redis_server, 100)
    first = await analyzer.analyze(ID, TERMS)
    append_pairs(redis_server, 100, failed=True)
    second = await analyzer.analyze(ID, TERMS)
    await observations.close()

    assert first.verdict is second.verdict is CanaryVerdict.PROMOTE
    assert second.pairs == first.pairs


async def test_probes_are_sent_a_few_at_a_time_and_once(redis_server: RedisServer) -> None:
    """Eight probes per analysis; equal answers in all of them are inconclusive, never a pass."""
    observations = CanaryObservations(redis_server.url)
    answers = Answers(s="right", c="right")
    analyzer = CanaryAnalyzer(observations, answers)
    targets = (ProbeTarget("s", ""), ProbeTarget("c", ""))
    strict = AnalysisTerms(**{**vars(TERMS), "quality_margin": 0.05})
    asked, verdicts = [], []
    for _ in range(4):
        decision = await analyzer.analyze(ID, strict, PROBES, targets)
        asked.append(answers.asked)
        verdicts.append(decision.verdict)
    await observations.close()

    assert asked == [16, 32, 40, 40]
    assert verdicts == [CanaryVerdict.CONTINUE] * 2 + [CanaryVerdict.INCONCLUSIVE] * 2


def test_probes_come_in_an_order_of_the_canarys_own() -> None:
    """Each probe once, the same after a restart, not in the order of the list, by canary."""
    order = probe_order(ID, 40)

    assert sorted(order) == list(range(40))
    assert order == probe_order(ID, 40)
    assert order != list(range(40))
    assert order != probe_order("ns/anything/other", 40)


async def test_a_canary_without_an_answer_is_wrong_and_stable_without_one_waits(
    redis_server: RedisServer,
) -> None:
    """The canary's silence is its fault; without stable there is nothing to compare with."""
    observations = CanaryObservations(redis_server.url)
    targets = (ProbeTarget("s", ""), ProbeTarget("c", ""))
    silent = CanaryAnalyzer(observations, Answers(s=None, c="right"))
    await silent.analyze(ID, TERMS, PROBES, targets)
    nothing, _ = await observations.read_scores(ID, "-")
    mute = CanaryAnalyzer(observations, Answers(s="right", c=None))
    await mute.analyze(ID, TERMS, PROBES, targets)
    scores, _ = await observations.read_scores(ID, "-")
    await observations.close()

    assert nothing == []
    assert scores[0] == ProbeScore(probe_order(ID, len(PROBES))[0], 1.0, 0.0)
    assert len(scores) == 8


async def test_redis_away_is_unavailable(tmp_path: Path) -> None:
    """No verdict is made of what cannot be read."""
    observations = CanaryObservations(f"unix://{tmp_path}/absent.sock")
    with pytest.raises(UnavailableError, match="canary streams"):
        await CanaryAnalyzer(observations, Answers()).analyze(ID, TERMS)
