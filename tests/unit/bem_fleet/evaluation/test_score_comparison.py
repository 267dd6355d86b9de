"""Scores of two sides and their difference."""

import numpy as np
import pytest
from bem.errors import EvaluationError
from bem_fleet.evaluation.score_comparison import (
    compare_categories,
    metric_difference,
    metric_differences,
    paired_runs,
)
from bem_fleet.stats.bootstrap import paired_bca

from tests.support.oracle_comparison import items


def test_difference_is_the_paired_interval_to_six_digits() -> None:
    """Estimate and bounds are those of the statistics, rounded as a report stores them."""
    rng = np.random.default_rng(1)
    mission, baseline = (rng.random((1, 60)).round(6) for _ in range(2))
    found = metric_difference(mission, baseline, 500, 0)
    interval = paired_bca(mission[0], baseline[0], resamples=500)

    assert found.estimate == round(interval.estimate, 6)
    assert (found.ci_low, found.ci_high) == (round(interval.low, 6), round(interval.high, 6))


def test_ties_are_equal_by_definition() -> None:
    """Equal sides have the value of no change as bounds, and p = 1."""
    same = np.ones((1, 20))
    found = metric_difference(same, same, 200, 0)

    assert found.ci_low == found.ci_high == 0
    assert found.p == 1


def test_baseline_of_one_run_is_compared_with_each_run() -> None:
    """One run is repeated; other shapes, and sides without a common metric, are refused."""
    mission, baseline = np.zeros((3, 4)), np.arange(4.0)[None]

    assert paired_runs(mission, baseline).shape == (3, 4)
    with pytest.raises(EvaluationError, match="cannot be paired"):
        paired_runs(mission, np.zeros((2, 4)))
    with pytest.raises(EvaluationError, match="none is common"):
        metric_differences({"f1": mission}, {"bleu": mission})


def test_small_categories_have_means_only() -> None:
    """From 10 items on a category has an interval."""
    few, many = items(12), items(40)
    for chosen, has_interval in ((few, False), (many, True)):
        scores = {"f1": np.random.default_rng(2).random((1, len(chosen)))}
        table = compare_categories(chosen, scores, {"f1": 0 * scores["f1"]}, resamples=200, seed=0)

        assert set(table) == {"c0", "c1"}
        assert ("ci_low" in table["c0"]["f1"]) is has_interval
