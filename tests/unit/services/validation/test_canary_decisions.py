"""Final decisions in Redis."""

import math

from bem_fleet.services.validation.canary_decisions import StoredDecisions
from bem_fleet.services.validation.canary_observations import CanaryObservations
from bem_fleet.stats.canary_gate import CanaryDecision, CanaryVerdict, MetricEvidence
from fleet.testing import RedisServer

from tests.unit.bem_fleet.stats.test_canary_terms import TERMS


async def test_a_decision_comes_back_as_it_was(redis_server: RedisServer) -> None:
    """Every digit of it, and a mean that is no number; other terms have their own."""
    evidence = {
        "errors": MetricEvidence(1 / 3, 2.0**-60, 0.1, pairs=9, correlation_time=1.25),
        "latency": MetricEvidence(math.nan, 1.0, 1.0),
    }
    decision = CanaryDecision(CanaryVerdict.ROLLBACK, 40, ("latency is worse", "x"), evidence)
    observations = CanaryObservations(redis_server.url)
    mine = StoredDecisions(observations, "c", TERMS, with_quality=False)
    other = StoredDecisions(observations, "c", TERMS, with_quality=True)
    await mine.write("live", decision)
    found = await mine.read(("live", "quality"))
    others = await other.read(("live", "quality"))
    await observations.close()

    assert repr(found) == repr({"live": decision})
    assert others == {}
