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
    """Equal sides give p = 1; items that all differ alike show a change, but no margin."""
    ones, zeros = np.ones(50), np.zeros(50)

    assert compare_pairs(ones, ones).p == 1
    assert compare_pairs(ones, zeros).p < 0.001
    assert compare_pairs(zeros, zeros, null=-0.01, alternative="greater").p == 1
    with pytest.raises(InvalidScoresError, match="same items on both sides"):
        compare_pairs([1, 0], [1])
