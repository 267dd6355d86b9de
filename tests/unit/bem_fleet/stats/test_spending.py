"""An error spent over the looks is never exceeded, and a harm is found where it is planned for."""

import math

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.samples import FloatArray
from bem_fleet.stats.spending import AlphaSpending, SignFlipTest

PLAN = AlphaSpending(horizon=2_000, half_spent_at=400, replicates=500)


def watch(test: SignFlipTest, gains: FloatArray) -> SignFlipTest:
    """Feed gains [streams, n] in blocks of 50, looking after each."""
    for start in range(0, gains.shape[1], 50):
        test.update(gains[:, start : start + 50])
    return test


def test_share_grows_from_nothing_to_all() -> None:
    """Half is spent about ``half_spent_at``, all at the horizon and after it."""
    shares = [PLAN.share(items) for items in (0, 100, 400, 2_000, 9_000)]

    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[2] == pytest.approx(0.5, abs=0.03)
    assert shares[3:] == [1, 1]


@pytest.mark.parametrize("kind", ["exact match", "heavy tails", "rare"])
def test_false_alarms_stay_below_alpha_at_all_looks_together(kind: str) -> None:
    """Of 400 canaries that change nothing at most about alpha are ever rejected."""
    rng = np.random.default_rng(3)
    size = (400, 2_000)
    gains: dict[str, FloatArray] = {
        "exact match": rng.choice([-1.0, 0.0, 1.0], p=[0.24, 0.52, 0.24], size=size),
        "heavy tails": np.clip(rng.standard_t(2, size), -5, 5),
        "rare": rng.choice([-1.0, 0.0, 1.0], p=[0.002, 0.996, 0.002], size=size),
    }
    test = watch(SignFlipTest(alpha=0.1, spending=PLAN, streams=400), gains[kind])

    assert test.rejected.mean() <= 0.1 + 3 * np.sqrt(0.09 / 400)
    assert (test.p_values[test.rejected] <= 0.1).all()
    assert (test.p_values[~test.rejected] == 1).all()


def test_loss_is_shown_and_a_gain_or_tolerated_loss_is_not() -> None:
    """A loss of 0.15 falls early; a gain never does, nor a loss within what is tolerated."""
    rng = np.random.default_rng(4)
    noise = rng.choice([-0.7, 0.7], size=(40, 2_000))
    lost = watch(SignFlipTest(alpha=0.05, spending=PLAN, streams=40), noise - 0.15)
    gained = watch(SignFlipTest(alpha=0.05, spending=PLAN, streams=40), noise + 0.05)
    within = SignFlipTest(alpha=0.05, spending=PLAN, streams=40, tolerated_loss=0.25)

    assert lost.rejected.all()
    assert not gained.rejected.any()
    assert not watch(within, noise - 0.15).rejected.any()


def test_constant_stream_of_losses_falls_and_of_nothing_does_not() -> None:
    """Gains of 0 are no evidence however many; the same loss every time is."""
    nothing = watch(SignFlipTest(alpha=0.05, spending=PLAN), np.zeros((1, 2_000)))
    always = watch(SignFlipTest(alpha=0.05, spending=PLAN), np.full((1, 2_000), -0.1))

    assert not nothing.rejected.any()
    assert always.rejected.all()


def test_limits_are_named() -> None:
    """Spending over nothing, a negative tolerance and other streams are refused."""
    with pytest.raises(InvalidScoresError, match="start at 1"):
        AlphaSpending(horizon=0, half_spent_at=1)
    with pytest.raises(InvalidScoresError, match="tolerated_loss: -1"):
        SignFlipTest(alpha=0.05, spending=PLAN, tolerated_loss=-1)
    with pytest.raises(InvalidScoresError, match="streams: got 2; the test has 1"):
        SignFlipTest(alpha=0.05, spending=PLAN).update(np.zeros((2, 10)))


def test_pairs_that_repeat_each_other_flip_together() -> None:
    """Autocorrelated streams without a loss seldom raise the alarm in blocks, and often alone."""
    rng = np.random.default_rng(11)
    values = rng.standard_normal((60, 2_000))
    for pair in range(1, 2_000):
        values[:, pair] = 0.9 * values[:, pair - 1] + math.sqrt(0.19) * values[:, pair]
    shares = []
    for block in (1, 100):
        spending = AlphaSpending(horizon=2_000, half_spent_at=500, replicates=500, block=block)
        test = SignFlipTest(alpha=0.05, spending=spending, streams=60)
        for start in range(0, 2_000, 100):
            test.update(0.1 * values[:, start : start + 100])
        shares.append(test.rejected.mean())

    assert shares[0] > 0.15
    assert shares[1] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def test_a_block_waits_for_its_last_pair() -> None:
    """The number of pairs is that of complete blocks."""
    spending = AlphaSpending(horizon=100, half_spent_at=50, block=10)
    test = SignFlipTest(alpha=0.05, spending=spending)
    test.update(np.zeros(14))
    test.update(np.zeros(7))

    assert test.items == 20
    with pytest.raises(InvalidScoresError, match="block 0"):
        AlphaSpending(horizon=100, half_spent_at=50, block=0)
