"""P-values agree with the interval that they invert and with scipy's permutation test."""

from typing import Any

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.bootstrap import cluster_bca, paired_bca
from bem_fleet.stats.pvalues import inversion_p_value, sign_flip_p_value
from scipy.stats import permutation_test

from tests.unit.bem_fleet.stats.test_bootstrap import difference, sides


@pytest.mark.parametrize("kind", ["exact match", "exponential"])
def test_inversion_is_the_interval_read_backwards(kind: str) -> None:
    """Just inside the 95 % interval p is at least 0.05, just outside less, ties or not."""
    mission, baseline = sides(kind, 200)
    found = paired_bca(mission, baseline)
    width = found.high - found.low

    for end, outwards in ((found.low, -width), (found.high, width)):
        assert inversion_p_value(mission, baseline, null=end - outwards / 200) >= 0.05
        assert inversion_p_value(mission, baseline, null=end + outwards / 200) < 0.05


def test_inversion_agrees_with_the_interval_of_seeds() -> None:
    """The same holds for few seeds that differ, one-sided too."""
    rng = np.random.default_rng(6)
    gains = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=(3, 200))
    gains += np.array([[0.0], [0.05], [0.1]])
    zero = np.zeros_like(gains)
    found = cluster_bca(gains, zero)
    width = found.high - found.low

    for end, outwards in ((found.low, -width), (found.high, width)):
        assert inversion_p_value(gains, zero, null=end - outwards / 200) >= 0.05
        assert inversion_p_value(gains, zero, null=end + outwards / 200) < 0.05
    assert inversion_p_value(
        gains, zero, null=found.low - width / 200, alternative="greater"
    ) == pytest.approx(0.025, abs=0.002)


def test_one_sided_values_sum_to_one() -> None:
    """Greater and less share what there is; two-sided is twice the smaller."""
    mission, baseline = sides("exponential", 100)
    greater = inversion_p_value(mission, baseline, alternative="greater")
    less = inversion_p_value(mission, baseline, alternative="less")

    assert greater + less == pytest.approx(1, abs=1e-3)
    assert inversion_p_value(mission, baseline) == pytest.approx(2 * min(greater, less))


def test_seeds_and_ratios_have_p_values() -> None:
    """Matrices go through the cluster bootstrap, ratios against a null of 1."""
    mission, baseline = sides("exponential", 300)
    stacked = np.stack([mission, mission[::-1] + 0.1]), np.stack([baseline, baseline[::-1]])

    assert inversion_p_value(*stacked) < 0.2
    assert inversion_p_value(mission, baseline, statistic="ratio", null=1) < 0.5
    assert inversion_p_value(mission, baseline, statistic="ratio", null=0) < 0.001


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_few_items_are_permuted_exactly(alternative: str) -> None:
    """Up to 13 items that differ, p equals scipy's exact test."""
    rng = np.random.default_rng(2)
    mission, baseline = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    reference = permutation_test(
        (mission, baseline),
        difference,
        permutation_type="samples",
        alternative=alternative,
        n_resamples=np.inf,
    )

    ours = {
        "two-sided": sign_flip_p_value(mission, baseline),
        "greater": sign_flip_p_value(mission, baseline, alternative="greater"),
        "less": sign_flip_p_value(mission, baseline, alternative="less"),
    }

    assert ours[alternative] == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("kind", ["exact match", "exponential"])
def test_many_items_are_permuted_at_random(kind: str) -> None:
    """Drawn flips agree with scipy's to Monte-Carlo error, for few and for many distinct values."""
    mission, baseline = sides(kind, 150)
    reference = permutation_test(
        (mission, baseline),
        difference,
        permutation_type="samples",
        n_resamples=10_000,
        vectorized=True,
        rng=1,
    )

    assert sign_flip_p_value(mission, baseline) == pytest.approx(reference.pvalue, abs=0.02)


def test_no_difference_is_no_evidence() -> None:
    """All ties have p = 1 in both tests; unequal lengths are an error."""
    assert inversion_p_value([1, 0], [1, 0]) == 1
    assert sign_flip_p_value([1, 0], [1, 0]) == 1
    with pytest.raises(InvalidScoresError, match="the same items on both sides"):
        sign_flip_p_value([1, 0], [1])


def test_noise_of_the_last_bit_is_no_evidence() -> None:
    """Thirty items that agree but for rounding, all in one direction, have p = 1."""
    rng = np.random.default_rng(3)
    tenths = rng.integers(1, 9, 30) / 10
    noisy = (tenths + 0.1) + 0.2
    exact = tenths + (0.1 + 0.2)
    assert (noisy != exact).any()

    assert sign_flip_p_value(noisy, exact, alternative="greater") == 1
    assert inversion_p_value(noisy, exact, alternative="greater") == 1
    assert sign_flip_p_value(exact * 1.1, exact, null=1.1, statistic="ratio") == 1


@pytest.mark.parametrize("scale", [1e-60, 1e-3, 1e39, 1e90])
def test_p_values_do_not_depend_on_the_unit(scale: float) -> None:
    """Scores in another unit give the same p-values."""
    mission, baseline = sides("exponential", 80)

    for test in (sign_flip_p_value, inversion_p_value):
        for statistic in ("difference", "ratio"):
            plain = test(mission, baseline, statistic=statistic, null=1.0 * (statistic == "ratio"))
            scaled = test(
                mission * scale,
                baseline * scale,
                statistic=statistic,
                null=1.0 * (statistic == "ratio"),
            )
            assert scaled == pytest.approx(plain, abs=2e-3)
            assert 0 < plain < 1


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"null": float("nan")}, "null is nan"),
        ({"null": float("inf")}, "null is inf"),
        ({"alternative": "Less"}, "alternative: 'Less' is unknown"),
        ({"statistic": "mean"}, "statistic: 'mean' is unknown; known: difference, ratio"),
    ],
)
def test_options_are_not_guessed(option: dict[str, Any], named: str) -> None:
    """A null value that is no number, or a misspelt option, is refused by both tests."""
    mission, baseline = sides("exponential", 20)

    for test in (sign_flip_p_value, inversion_p_value):
        with pytest.raises(InvalidScoresError, match=named):
            test(mission, baseline, **option)
