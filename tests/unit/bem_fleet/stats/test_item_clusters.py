"""Clusters of items."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.item_clusters import (
    cluster_sizes,
    cluster_sums,
    few_clusters_factor,
    intraclass_correlation,
    number_clusters,
)


def test_sums_and_sizes_are_by_cluster() -> None:
    """Clusters are numbered by first appearance, also over seeds x items."""
    numbers = number_clusters(["b", "a", "b", "c"], 4)

    assert numbers.tolist() == [0, 1, 0, 2]
    assert cluster_sizes(numbers).tolist() == [2, 1, 1]
    assert cluster_sums(np.array([1.0, 2, 3, 4]), numbers).tolist() == [4, 2, 4]
    assert cluster_sums(np.ones((2, 4)), numbers).tolist() == [[2, 1, 1]] * 2
    with pytest.raises(InvalidScoresError, match="3 names for 4 items"):
        number_clusters(["a", "b", "c"], 4)


def test_few_clusters_widen_and_many_do_not() -> None:
    """Of 10 clusters the interval is a fifth wider than the bootstrap says."""
    assert few_clusters_factor(10) == pytest.approx(1.2166, abs=1e-3)
    assert few_clusters_factor(1000) == pytest.approx(1, abs=2e-3)
    assert few_clusters_factor(1) == 1


def test_correlation_is_that_of_the_data() -> None:
    """Items of one value by cluster have 1; independent ones about 0; simulated ones their own."""
    rng = np.random.default_rng(3)
    numbers = np.repeat(np.arange(200), 8)
    shared = rng.standard_normal(200)[numbers]
    noise = rng.standard_normal(1600)

    assert intraclass_correlation(shared, numbers) == pytest.approx(1)
    assert intraclass_correlation(noise, numbers) == pytest.approx(0, abs=0.05)
    mixed = np.sqrt(0.33) * shared + np.sqrt(0.67) * noise
    assert intraclass_correlation(mixed, numbers) == pytest.approx(0.33, abs=0.06)
    assert intraclass_correlation(np.ones(4), np.array([0, 0, 1, 1])) == 0
