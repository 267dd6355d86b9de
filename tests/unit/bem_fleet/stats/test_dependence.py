"""Autocorrelated streams are worth fewer pairs, and raise no more false alarms than others."""

import math

import numpy as np
import pytest
from bem_fleet.stats.dependence import WINDOW, CorrelationTime
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.sequential import BettingTest, SequentialTest, SequentialTestSpec

STREAMS, PAIRS, LOOK = 100, 2_000, 40


def autoregressive(rng: np.random.Generator, coefficient: float, *, heavy: bool) -> FloatArray:
    """Return streams of mean 0 and unit scale, [STREAMS, PAIRS]; heavy: Student's t innovations."""
    size = (STREAMS, PAIRS)
    noise = rng.standard_t(3, size) / math.sqrt(3) if heavy else rng.standard_normal(size)
    values = np.empty(size)
    values[:, 0] = noise[:, 0]
    for t in range(1, PAIRS):
        values[:, t] = coefficient * values[:, t - 1] + math.sqrt(1 - coefficient**2) * noise[:, t]
    return values


def spells(rng: np.random.Generator, share: float, length: float) -> FloatArray:
    """Return 1 within spells of geometric length and 0 elsewhere, [STREAMS, PAIRS]."""
    begin = share / (1 - share) / length
    state, values = rng.random(STREAMS) < share, np.empty((STREAMS, PAIRS))
    for t in range(PAIRS):
        draw = rng.random(STREAMS)
        state = np.where(state, draw > 1 / length, draw < begin)
        values[:, t] = state
    return values


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9])
def test_the_time_of_an_autoregressive_stream_is_found(coefficient: float) -> None:
    """(1 + c) / (1 - c), on the safe side by less than half."""
    times = CorrelationTime(STREAMS)
    times.update(autoregressive(np.random.default_rng(1), coefficient, heavy=False))
    truth = (1 + coefficient) / (1 - coefficient)

    assert truth <= np.median(times.times) <= 1.6 * truth
    assert (times.effective <= PAIRS).all()


def test_a_constant_stream_has_time_one() -> None:
    """It says nothing about its dependence, and rounding noise is no variation."""
    times = CorrelationTime(2)
    times.update(np.stack([np.full(60, 0.3), np.tile([0.1 + 0.2, 0.3], 30)]))

    assert times.times.tolist() == [1, 1]
    assert times.suffices.all()


def test_missing_observations_are_left_out() -> None:
    """The lags are those of the pairs, and the number that of what was observed."""
    rng = np.random.default_rng(2)
    values = autoregressive(rng, 0.9, heavy=False)
    whole, half = CorrelationTime(STREAMS), CorrelationTime(STREAMS)
    whole.update(values)
    half.update(np.where(rng.random(values.shape) < 0.5, np.nan, values))

    assert np.median(half.times) == pytest.approx(np.median(whole.times), rel=0.2)
    assert half.counts.mean() == pytest.approx(PAIRS / 2, rel=0.05)


def test_a_step_is_forgotten_with_its_window() -> None:
    """A canary that becomes slower is one change, not a correlation for ever."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((STREAMS, 10 * WINDOW))
    values[:, 1_200:] += 5
    times = CorrelationTime(STREAMS)
    times.update(values[:, : 3 * WINDOW])
    within = np.median(times.times)
    times.update(values[:, 3 * WINDOW :])

    assert np.median(times.times) < within / 1.5


STREAM_KINDS = {
    "autoregressive 0.5": lambda rng: autoregressive(rng, 0.5, heavy=False),
    "autoregressive 0.9": lambda rng: autoregressive(rng, 0.9, heavy=False),
    "autoregressive 0.98": lambda rng: autoregressive(rng, 0.98, heavy=False),
    "autoregressive 0.9, heavy tails": lambda rng: autoregressive(rng, 0.9, heavy=True),
    "spells of ten": lambda rng: spells(rng, 0.1, 10) - spells(rng, 0.1, 10),
}


@pytest.mark.parametrize("kind", STREAM_KINDS.values(), ids=STREAM_KINDS)
def test_dependent_streams_keep_the_false_alarm_rate(kind: object) -> None:
    """At the null itself, either verdict is reached by at most alpha; bets alone by far more."""
    values = np.clip(0.3 * kind(np.random.default_rng(4)), -1, 1)  # type: ignore[operator]
    test = SequentialTest(SequentialTestSpec(), STREAMS)
    bets = BettingTest(null=0, greater=False, streams=STREAMS)
    for start in range(0, PAIRS, LOOK):
        test.update(values[:, start : start + LOOK])
        bets.update(values[:, start : start + LOOK])
    error = 3 * math.sqrt(0.05 * 0.95 / STREAMS)

    assert bets.rejected.mean() > 0.05 + error
    assert test.better.rejected.mean() <= 0.05 + error
    assert test.worse.rejected.mean() <= 0.05 + error


def test_independence_costs_little() -> None:
    """A loss that independent pairs show is shown with a fifth more of them."""
    values = np.clip(0.3 * autoregressive(np.random.default_rng(5), 0, heavy=False) - 0.06, -1, 1)
    test = SequentialTest(SequentialTestSpec(), STREAMS)
    bets = BettingTest(null=0, greater=False, streams=STREAMS)
    reached = {"test": np.full(STREAMS, np.inf), "bets": np.full(STREAMS, np.inf)}
    for start in range(0, PAIRS, LOOK):
        test.update(values[:, start : start + LOOK])
        bets.update(values[:, start : start + LOOK])
        for name, rejected in (("test", test.worse.rejected), ("bets", bets.rejected)):
            reached[name] = np.minimum(reached[name], np.where(rejected, start + LOOK, np.inf))

    assert np.median(reached["test"]) <= 1.35 * np.median(reached["bets"])


def test_separate_questions_pay_for_no_correlation() -> None:
    """Sixteen probes that the canary loses are enough; the same losses of live traffic are not.

    Their estimate is noise: two neighbours that are both a little less wrong look like a spell.
    """
    gains = np.array([-1.0] * 6 + [-0.6] * 3 + [-1.0] * 7)
    probes = SequentialTest(SequentialTestSpec(tolerated_loss=0.1, independent=True))
    traffic = SequentialTest(SequentialTestSpec(tolerated_loss=0.1))
    for gain in gains:  # one look each, as probes have
        probes.update([gain])
        traffic.update([gain])

    assert probes.dependence.times.tolist() == [1.0]
    assert bool(probes.worse.rejected[0])
    assert not bool(traffic.worse.rejected[0])


def test_fewer_than_ten_probes_conclude_nothing() -> None:
    """Nine failures in a row may be one outage of the canary."""
    test = SequentialTest(SequentialTestSpec(tolerated_loss=0.1, independent=True))
    test.update([-1.0] * 9)
    early = bool(test.worse.rejected[0])
    test.update([-1.0])

    assert not early
    assert bool(test.worse.rejected[0])
