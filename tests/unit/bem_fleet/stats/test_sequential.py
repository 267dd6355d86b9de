"""Sequential tests hold under continuous peeking and notice what is there."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.sequential import (
    BettingTest,
    ConfidenceSequence,
    SequentialOutcome,
    SequentialTest,
    SequentialTestSpec,
)

STREAMS = 1_000


def stream(kind: str, rng: np.random.Generator, n: int) -> tuple[FloatArray, float, float, float]:
    """Return observations [STREAMS, n] with their bounds and their true mean."""
    size = (STREAMS, n)
    if kind == "paired exact match":
        return rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=size), -1, 1, 0.0
    if kind == "bounded scores":
        return rng.beta(0.5, 0.5, size=size), 0, 1, 0.5
    if kind == "error rate":
        return (rng.random(size) < 0.01).astype(float), 0, 1, 0.01
    return np.clip(rng.standard_t(2, size=size), -1, 1), -1, 1, 0.0  # log-ratios, winsorised


@pytest.mark.parametrize(
    "kind", ["paired exact match", "bounded scores", "error rate", "log-ratio of latency"]
)
@pytest.mark.parametrize("greater", [True, False])
def test_false_alarms_stay_below_alpha_under_peeking(kind: str, *, greater: bool) -> None:
    """Looking after every 5 of 2,000 items rejects a true null in at most 5 % of the streams."""
    values, low, high, mean = stream(kind, np.random.default_rng(7), 2_000)
    test = BettingTest(null=mean, low=low, high=high, greater=greater, streams=STREAMS)

    for block in np.split(values, 400, axis=1):
        test.update(block)

    error = 3 * np.sqrt(0.05 * 0.95 / STREAMS)
    assert test.rejected.mean() <= 0.05 + error


def test_a_real_loss_is_found() -> None:
    """A loss of 5 points where 10 % of pairs differ is shown in most streams by 1,500 items."""
    rng = np.random.default_rng(8)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.075, 0.9, 0.025], size=(200, 1_500))
    test = BettingTest(null=0, greater=False, streams=200)

    test.update(values)

    assert test.rejected.mean() > 0.95


def test_p_value_never_rises_again() -> None:
    """An always-valid p-value is the smallest so far; wealth itself may fall."""
    test = BettingTest(null=0)
    test.update(np.full(100, 0.5))
    shown = test.p_values[0]
    wealth = test.log_e[0]
    test.update(np.full(100, -0.5))

    assert test.p_values[0] == shown < 1e-6
    assert test.log_e[0] < wealth


def test_confidence_sequence_covers_at_all_times() -> None:
    """The interval misses the mean at any time in at most 5 % of the streams, and tightens."""
    rng = np.random.default_rng(9)
    missed = 0
    for _ in range(200):
        sequence = ConfidenceSequence(low=-1, high=1)
        sequence.update(rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1], size=1_000))
        low, high = sequence.interval
        missed += not low <= 0.05 <= high
        assert high - low < 0.2

    assert missed <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        (0.3, SequentialOutcome.BETTER),
        (-0.3, SequentialOutcome.WORSE),
        (0.0, SequentialOutcome.FUTILE),
    ],
)
def test_outcome_is_what_was_shown(gain: float, outcome: SequentialOutcome) -> None:
    """A gain, a loss, and the absence of a worthwhile gain each end the test."""
    test = SequentialTest(SequentialTestSpec(futility_margin=0.1))
    rng = np.random.default_rng(0)

    assert test.outcomes == [SequentialOutcome.CONTINUE]
    test.update(np.clip(rng.normal(gain, 0.3, 2_000), -1, 1))

    assert test.outcomes == [outcome]
    assert test.means[0] == pytest.approx(gain, abs=0.03)


def test_bounds_are_kept() -> None:
    """What lies outside the bounds, is NaN, or comes for other streams voids the test: an error."""
    test = BettingTest(null=0)

    with pytest.raises(InvalidScoresError, match="the test holds only for -1 to 1"):
        test.update([0.5, 1.5])
    with pytest.raises(InvalidScoresError, match="NaN"):
        test.update([np.nan])
    with pytest.raises(InvalidScoresError, match="streams: got 2; the test has 1"):
        test.update(np.zeros((2, 3)))
    with pytest.raises(InvalidScoresError, match="does not lie between"):
        BettingTest(null=1)
    with pytest.raises(InvalidScoresError, match="outside -1 to 1"):
        ConfidenceSequence().update([2])
    with pytest.raises(InvalidScoresError, match="is not below"):
        ConfidenceSequence(low=1, high=1)
    with pytest.raises(InvalidScoresError, match="0 or more"):
        SequentialTest(SequentialTestSpec(tolerated_loss=-1))
