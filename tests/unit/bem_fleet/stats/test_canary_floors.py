"""Floors ask for a level of the canary itself, whatever stable does."""

import math

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.canary_floors import CanaryFloor, FloorTest
from bem_fleet.stats.canary_gate import CanaryGate, CanaryGateSpec, CanaryVerdict
from bem_fleet.stats.canary_metrics import CanaryMetric

STREAMS = 400


def test_the_documented_number_shows_the_level() -> None:
    """About 55 answered requests show 90 %."""
    test = FloorTest(CanaryFloor("answered", 0.9), 0.05, 1)
    pairs = 0
    while not test.rejected[0]:
        test.update(np.ones((1, 1)))
        pairs += 1

    assert 50 <= pairs <= 60


def test_a_share_at_the_level_is_seldom_shown() -> None:
    """Of 400 canaries that answer exactly 90 %, at most alpha are said to answer more."""
    test = FloorTest(CanaryFloor("answered", 0.9), 0.05, STREAMS)
    rng = np.random.default_rng(0)
    for _ in range(40):
        test.update((rng.random((STREAMS, 25)) < 0.9).astype(float))

    assert test.rejected.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STREAMS)
    assert test.shares.mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("answered", "verdict"), [(1.0, "promote"), (0.5, "continue")])
def test_a_promotion_needs_the_floor(answered: float, verdict: str) -> None:
    """Equal tracks are promoted if they answer, and wait if they do not; the reason says so."""
    metric = CanaryMetric("errors", better="lower", required_gain=-0.1)
    gate = CanaryGate(CanaryGateSpec((metric,), floors=(CanaryFloor("answered", 0.8),)))
    values = np.ones(300) if answered == 1 else (np.arange(300) % 2).astype(float)
    gate.observe({"errors": np.zeros(300), "answered": values}, {"errors": np.zeros(300)})
    decision = gate.decision()

    assert decision.verdict is CanaryVerdict(verdict)
    assert (answered == 1) or decision.reasons == (
        "answered is not shown yet: 150 of 300 requests of the canary, promotion needs 80%",
    )


def test_a_level_outside_its_range_is_refused() -> None:
    """Nobody can be shown to exceed 100 %."""
    with pytest.raises(InvalidScoresError, match=r"answered\.level is 1"):
        CanaryFloor("answered", 1.0)
