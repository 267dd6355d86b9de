"""Bootstrap distributions."""

import numpy as np
import pytest
from bem_fleet.stats.distribution import bootstrap_clusters, bootstrap_mean, bootstrap_pairs
from scipy.special import ndtr


def test_acceleration_and_bias_follow_their_formulas() -> None:
    """The acceleration is the scaled third moment of the influence values, z0 the median bias."""
    values = np.random.default_rng(3).exponential(size=80)
    found = bootstrap_mean(values, resamples=4_000, seed=1)
    influence = values - values.mean()

    assert found.estimate == pytest.approx(values.mean())
    assert found.acceleration == pytest.approx(
        (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    )
    below = np.mean(found.replicates < found.estimate)
    assert ndtr(found.bias) == pytest.approx(below, abs=0.01)


def test_level_inverts_quantile() -> None:
    """The level of an endpoint is the level that gave it, for skewed values too."""
    values = np.random.default_rng(4).lognormal(size=120)
    found = bootstrap_mean(values, resamples=5_000, seed=2)

    for level in (0.025, 0.3, 0.9):
        assert found.level(found.quantile(level), ties=0.5) == pytest.approx(level, abs=0.005)


def test_ratio_of_proportional_sides_has_no_spread() -> None:
    """A mission that is always twice its baseline has ratio 2 and no interval."""
    baseline = np.array([1.0, 2.0, 3.0, 4.0])
    found = bootstrap_pairs(2 * baseline, baseline, "ratio", resamples=200, seed=0)

    assert found.estimate == pytest.approx(2)
    assert found.degenerate


def test_spread_of_seeds_widens_the_distribution() -> None:
    """Seeds that disagree add their error; equal seeds leave that of the items."""
    rng = np.random.default_rng(5)
    items = rng.normal(0.1, 0.2, 300)
    agree = np.tile(items, (3, 1))
    differ = agree + np.array([[-0.1], [0.0], [0.1]])
    zero = np.zeros_like(agree)
    same, wide = (
        bootstrap_clusters(side, zero, "difference", resamples=2_000, seed=0)
        for side in (agree, differ)
    )

    assert same.clusters == wide.clusters == 3
    assert same.replicates.std() == pytest.approx(items.std() / np.sqrt(300), rel=0.1)
    assert wide.replicates.std() > 3 * same.replicates.std()
