"""A comparison is the interval and both p-values of its parts, and takes the cautious one."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.bootstrap import cluster_bca, paired_bca
from bem_fleet.stats.comparison import compare_pairs
from bem_fleet.stats.distribution import Statistic
from bem_fleet.stats.pvalues import inversion_p_value, sign_flip_p_value

from tests.unit.bem_fleet.stats.test_bootstrap import sides


@pytest.mark.parametrize("statistic", ["difference", "ratio"])
@pytest.mark.parametrize("null", [None, 1.1])
def test_parts_are_those_of_the_library(statistic: Statistic, null: float | None) -> None:
    """Interval, inversion and sign flips equal the functions that make each alone."""
    mission, baseline = sides("exponential", 120)
    found = compare_pairs(mission, baseline, statistic=statistic, null=null, resamples=1_000)
    at = (1.0 if statistic == "ratio" else 0.0) if null is None else null
    inverted = inversion_p_value(mission, baseline, statistic=statistic, null=at, resamples=1_000)
    flipped = sign_flip_p_value(mission, baseline, statistic=statistic, null=null, resamples=1_000)

    assert found.interval == paired_bca(mission, baseline, statistic=statistic, resamples=1_000)
    assert (found.p_inversion, found.p_permutation) == (inverted, flipped)
    assert found.p == max(inverted, flipped)


def test_seeds_are_clusters_and_one_seed_is_none() -> None:
    """A matrix goes through the cluster bootstrap; one row is the plain comparison."""
    mission, baseline = sides("exact match", 100)
    rows = np.stack([mission, np.roll(mission, 1), mission])
    crossed = compare_pairs(rows, np.broadcast_to(baseline, rows.shape), resamples=500)

    assert crossed.interval == cluster_bca(
        rows, np.broadcast_to(baseline, rows.shape), resamples=500
    )
    assert compare_pairs([mission], [baseline]) == compare_pairs(mission, baseline)


def test_null_of_its_own_is_subtracted() -> None:
    """Flips about a margin are flips of the differences less the margin."""
    mission, baseline = sides("exact match", 150)

    assert sign_flip_p_value(mission, baseline, null=-0.1) == sign_flip_p_value(
        np.asarray(mission) + 0.1, baseline, null=0.0
    )
    assert sign_flip_p_value(mission, baseline, null=-0.3, alternative="greater") < 0.01


def test_no_variation_proves_no_margin() -> None:
    """Items that all differ alike show a change, but no margin."""
    ones, zeros = np.ones(50), np.zeros(50)

    assert compare_pairs(ones, zeros).p < 0.001
    assert compare_pairs(ones, zeros, null=0.99, alternative="greater").p == 1
    with pytest.raises(InvalidScoresError, match="same items on both sides"):
        compare_pairs([1, 0], [1])


@pytest.mark.parametrize("score", [0.0, 0.4])
def test_equal_scores_are_equal_by_definition(score: float) -> None:
    """They are no worse than any margin on the worse side, and better than nothing."""
    same = np.full((3, 60), score)
    found = compare_pairs(same, same, null=-0.01, alternative="greater")

    assert (found.interval.low, found.interval.high, found.interval.coverage_class) == (
        0.0, 0.0, "equal"
    )  # fmt: skip
    assert found.p < 0.001
    assert compare_pairs(same, same).p == 1
    assert compare_pairs(same, same, alternative="greater").p == 1
    assert compare_pairs(same, same, null=0.01, alternative="greater").p == 1
    assert compare_pairs(same, same, null=0.01, alternative="less").p < 0.001


def test_clusters_are_the_unit_of_interval_and_p() -> None:
    """Ten families of thirty items that gain or lose together are ten observations, not 300."""
    families = [str(number // 30) for number in range(300)]
    gains = np.array([0.9, -0.3, 0.8, -0.2, 0.7, 0.6, -0.4, 0.5, 0.3, 0.4]).repeat(30)
    zeros = np.zeros(300)
    by_item = compare_pairs(gains, zeros)
    by_family = compare_pairs(gains, zeros, item_clusters=families)

    assert by_item.p < 0.001
    assert by_family.p > 0.02
    assert by_family.units == 10
    assert by_family.interval.coverage_class == "few-clusters"
    width = by_family.interval.high - by_family.interval.low
    assert width > 4 * (by_item.interval.high - by_item.interval.low)


def test_clusters_of_one_item_are_items() -> None:
    """The p-values agree, and the interval to the widening for few clusters."""
    rng = np.random.default_rng(5)
    left, right = rng.random((3, 250)), rng.random((3, 250))
    plain = compare_pairs(left, right)
    single = compare_pairs(left, right, item_clusters=[str(number) for number in range(250)])

    assert single.p_permutation == plain.p_permutation
    assert single.interval.low == pytest.approx(plain.interval.low, abs=0.002)
    assert single.interval.high == pytest.approx(plain.interval.high, abs=0.002)
    with pytest.raises(InvalidScoresError, match="2 names for 250 items"):
        compare_pairs(left, right, item_clusters=["a", "b"])


@pytest.mark.slow
def test_verdict_near_the_margin_does_not_depend_on_the_seed() -> None:
    """One lost item of 510, 26 of them answered by the baseline: every seed gives one verdict."""
    baseline = np.zeros(510)
    baseline[:26] = 1
    mission = baseline.copy()
    mission[0] = 0
    found = [
        compare_pairs(mission, baseline, null=-0.01, alternative="greater", seed=seed, settle=True)
        for seed in range(6)
    ]
    verdicts = {one.settled and one.interval.low > -0.01 for one in found}

    assert len(verdicts) == 1
    assert all(10 * one.bound_error <= abs(one.interval.low + 0.01) for one in found if one.settled)
