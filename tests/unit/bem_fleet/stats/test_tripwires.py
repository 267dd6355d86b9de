"""A tripwire acts at once on a canary's own breakage, and seldom on one that changes nothing."""

import math

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.tripwires import INCIDENT_BLOCK, BurstTest, Tripwire, TripwireMonitor

RATE = 0.05
STREAMS = 400


def gains(rng: np.random.Generator, pairs: int, harm: float = 0.0) -> FloatArray:
    """Return stable - canary of an event of 5 %, [streams, pairs]; the canary has ``harm`` more."""
    size = (STREAMS, pairs)
    canary = rng.random(size) < RATE + harm
    return (rng.random(size) < RATE).astype(float) - canary


def test_false_alarms_hold_over_all_looks() -> None:
    """Of 400 canaries that break as often as stable, looked at 200 times, few raise the alarm."""
    rng = np.random.default_rng(0)
    test = BurstTest(alpha=0.05, horizon=4_000, streams=STREAMS)
    for _ in range(200):
        test.update(gains(rng, 20))

    assert test.rejected.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STREAMS)


@pytest.mark.parametrize("past", [0, 3_000])
def test_a_burst_is_noticed_whatever_went_before(past: int) -> None:
    """Twenty blocks of breakages raise the alarm, at the start and after an eventful past."""
    rng = np.random.default_rng(1)
    test = BurstTest(alpha=0.01, horizon=10_000, streams=STREAMS)
    if past:
        test.update(gains(rng, past))
    early = test.rejected
    test.update(np.full((STREAMS, 20 * INCIDENT_BLOCK), -1.0))

    assert early.mean() < 0.03
    assert test.rejected.all()


def test_how_pairs_are_cut_into_looks_changes_no_wealth() -> None:
    """Wealth waits and is staked by the number of pairs, not of looks."""
    block = gains(np.random.default_rng(2), 350)
    whole, parts = (BurstTest(alpha=0.01, horizon=1_000, streams=STREAMS) for _ in range(2))
    whole.update(block)
    for start in range(0, 350, 70):
        parts.update(block[:, start : start + 70])

    assert np.allclose(whole.log_e, parts.log_e)
    assert whole.items == parts.items == 348  # two pairs wait for their block


def test_eight_percent_against_none_ends_within_a_hundred_pairs() -> None:
    """Every twelfth pair surely; failures at random in more than half of the canaries."""
    regular = np.zeros((1, 100))
    regular[0, 11::12] = -1
    random = -(np.random.default_rng(4).random((STREAMS, 100)) < 0.08).astype(float)
    shares = []
    for losses in (regular, random):
        test = BurstTest(alpha=0.029, tolerated_loss=0.01, horizon=20_000, streams=len(losses))
        test.update(losses)
        shares.append(test.rejected.mean())

    assert shares[0] == 1
    assert shares[1] > 0.5


@pytest.mark.parametrize(("share", "length"), [(0.01, 3), (0.01, 10), (0.05, 3)])
def test_spells_on_either_track_raise_no_more_alarms(share: float, length: int) -> None:
    """Failures that come together on one track are one incident, as often stable's."""
    rng = np.random.default_rng(6)
    begin = share / (1 - share) / length
    state = np.zeros((2, STREAMS), bool)
    test = BurstTest(alpha=0.029, tolerated_loss=0.01, horizon=20_000, streams=STREAMS)
    for _ in range(50):
        block = np.empty((STREAMS, 100))
        for pair in range(100):
            draw = rng.random(state.shape)
            state = np.where(state, draw > 1 / length, draw < begin)
            block[:, pair] = state[0].astype(float) - state[1]
        test.update(block)

    assert test.rejected.mean() <= 0.029 + 3 * math.sqrt(0.029 * 0.971 / STREAMS)


def test_what_is_tolerated_raises_no_alarm() -> None:
    """A canary that breaks more often, by less than the margin, is no harm."""
    rng = np.random.default_rng(3)
    strict = BurstTest(alpha=0.05, horizon=4_000, streams=STREAMS)
    lenient = BurstTest(alpha=0.05, tolerated_loss=0.12, horizon=4_000, streams=STREAMS)
    for _ in range(40):
        block = gains(rng, 100, harm=0.1)
        strict.update(block)
        lenient.update(block)

    assert strict.rejected.mean() > 0.9
    assert lenient.rejected.mean() <= 0.05


def test_both_the_count_and_the_pairs_must_speak() -> None:
    """A limit that stable breaks as well does not trip; one that the canary alone breaks does."""
    wire = Tripwire("errors", events=10, window=50, metric="errors")
    happened = np.ones((2, 60), dtype=bool)
    watch = TripwireMonitor(wire, BurstTest(alpha=0.005, streams=2), 2)
    watch.observe(happened, {"errors": np.stack([np.zeros(60), np.full(60, -1.0)])})
    alone = TripwireMonitor(Tripwire("kl"), None, 1)
    alone.observe(np.array([[False, True]]), {})

    assert watch.tripped.tolist() == [False, True]
    assert alone.tripped.tolist() == [True]


def test_limits_that_make_no_sense_are_refused() -> None:
    """Counts start at 1, weights lie above 0, and a tolerated loss within the reach."""
    for bad in ({"events": 0}, {"window": 0}, {"weight": 0.0}):
        with pytest.raises(InvalidScoresError, match="events and window start at 1"):
            Tripwire("x", **bad)
    with pytest.raises(InvalidScoresError, match="it must lie from 0 to below 1"):
        BurstTest(alpha=0.05, tolerated_loss=1.0)
    with pytest.raises(InvalidScoresError, match="alpha is 0"):
        BurstTest(alpha=0)
