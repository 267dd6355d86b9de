"""BCa intervals against scipy, and what they make of scores that say nothing."""

import math

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.bootstrap import bca, cluster_bca, paired_bca
from bem_fleet.stats.samples import FloatArray
from scipy.stats import bootstrap, t


def sides(kind: str, n: int) -> tuple[FloatArray, FloatArray]:
    """Return mission and baseline [n] that differ a little."""
    rng = np.random.default_rng(n)
    if kind == "exact match":
        baseline = rng.random(n) < 0.5
        mission = np.where(rng.random(n) < 0.2, rng.random(n) < 0.8, baseline)
        return mission.astype(float), baseline.astype(float)
    return rng.exponential(size=n) + 1.2, rng.exponential(size=n) + 1


def difference(mission: FloatArray, baseline: FloatArray, axis: int = -1) -> FloatArray:
    """Return the difference of means, as scipy calls it."""
    return np.asarray(mission.mean(axis) - baseline.mean(axis))


def ratio(mission: FloatArray, baseline: FloatArray, axis: int = -1) -> FloatArray:
    """Return the ratio of means, as scipy calls it."""
    return np.asarray(mission.mean(axis) / baseline.mean(axis))


@pytest.mark.parametrize("n", [80, 400])
@pytest.mark.parametrize("kind", ["exact match", "exponential"])
@pytest.mark.parametrize("statistic", ["difference", "ratio"])
def test_interval_agrees_with_scipy(kind: str, statistic: str, n: int) -> None:
    """Bounds are scipy's up to resampling noise, and one step where scores are discrete."""
    mission, baseline = sides(kind, n)
    called = difference if statistic == "difference" else ratio
    reference = bootstrap(
        (mission, baseline), called, paired=True, n_resamples=10_000, method="BCa", rng=1
    )
    scale = float(reference.standard_error)
    bounds = reference.confidence_interval

    found = paired_bca(
        mission, baseline, statistic="ratio" if statistic == "ratio" else "difference"
    )

    step = 2 / n if kind == "exact match" else 0.0
    assert found.estimate == pytest.approx(float(called(mission, baseline)))
    assert found.low == pytest.approx(bounds.low, abs=0.12 * scale + step)
    assert found.high == pytest.approx(bounds.high, abs=0.12 * scale + step)


def test_many_columns_agree_with_one() -> None:
    """The matrix path of the ratio gives the interval of the gathered path when baseline is 1."""
    mission, _ = sides("exponential", 300)

    one = bca(mission)
    through_ratio = paired_bca(mission, np.ones(300), statistic="ratio")

    assert through_ratio.low == pytest.approx(one.low, abs=0.01)
    assert through_ratio.high == pytest.approx(one.high, abs=0.01)


def test_same_seed_same_interval() -> None:
    """An interval is a function of the scores and the seed."""
    mission, baseline = sides("exponential", 100)

    assert paired_bca(mission, baseline, seed=4) == paired_bca(mission, baseline, seed=4)
    assert paired_bca(mission, baseline, seed=4) != paired_bca(mission, baseline, seed=5)


def test_one_seed_is_the_paired_interval() -> None:
    """A cluster bootstrap over one seed has nothing but the items to resample."""
    mission, baseline = sides("exact match", 300)

    paired = paired_bca(mission, baseline)
    clustered = cluster_bca(mission[None], baseline[None])

    assert clustered.low == pytest.approx(paired.low, abs=0.01)
    assert clustered.coverage_class == paired.coverage_class


def test_seeds_that_disagree_widen_the_interval() -> None:
    """The spread between seeds is part of the error of the mean."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(5, 400))
    shifts = np.array([-1.0, -0.5, 0, 0.5, 1.0])[:, None]
    zero = np.zeros((5, 400))

    agreeing = cluster_bca(items, zero)
    disagreeing = cluster_bca(items + shifts, zero)

    assert disagreeing.high - disagreeing.low > 3 * (agreeing.high - agreeing.low)
    assert cluster_bca(items[:3], zero[:3]).coverage_class == "few-seeds"


def test_seeds_alone_give_students_interval() -> None:
    """Where only seeds differ, three of them are as wide as t with two degrees of freedom."""
    shifts = np.array([0.0, 0.02, 0.07])
    rows = np.repeat(shifts[:, None], 300, axis=1)
    found = cluster_bca(rows, np.zeros((3, 300)))
    error = shifts.std(ddof=1) / math.sqrt(3)
    ends = t(2).ppf([0.025, 0.975]) * error + shifts.mean()

    assert (found.low, found.high) == pytest.approx(tuple(ends), rel=0.01)


def test_seeds_that_agree_are_the_paired_interval() -> None:
    """Equal rows say nothing of seeds, so that the items alone decide."""
    mission, baseline = sides("exponential", 200)
    for statistic in ("difference", "ratio"):
        paired = paired_bca(mission, baseline, statistic=statistic)
        crossed = cluster_bca([mission] * 3, [baseline] * 3, statistic=statistic)

        assert (crossed.low, crossed.high) == pytest.approx((paired.low, paired.high), rel=1e-6)


def test_noise_of_cells_is_counted_once() -> None:
    """Where every cell is drawn anew, the spread of the seeds' means holds all the noise."""
    noise = np.random.default_rng(4).normal(size=(10, 400))
    found = cluster_bca(noise, np.zeros((10, 400)))
    of_seeds = noise.mean(axis=1).std(ddof=1) / math.sqrt(10)
    width = 2 * t(9).ppf(0.975) * of_seeds

    assert 0.98 * width < found.high - found.low < 1.2 * width


@pytest.mark.parametrize(
    ("mission", "baseline"), [([1.0], [0.0]), ([1, 1, 1], [1, 1, 1]), ([0.3, 0.3], [0.1, 0.1])]
)
def test_what_does_not_vary_has_no_interval(mission: list[float], baseline: list[float]) -> None:
    """One item or all ties give NaN bounds that pass no comparison, and say so."""
    found = paired_bca(mission, baseline)

    assert not found.conclusive
    assert found.coverage_class == "degenerate"
    assert math.isnan(found.low)
    assert not found.low > 0
    assert not found.high < 0


def test_a_baseline_that_may_vanish_leaves_the_ratio_undefined() -> None:
    """One right answer among few items can be missed by a resample, so there is no interval."""
    assert not paired_bca([1, 1, 0, 1], [1, 0, 0, 0], statistic="ratio").conclusive


def test_bad_scores_are_refused_by_name() -> None:
    """Length, NaN, emptiness, a zero baseline and levels outside (0, 1) are errors that say so."""
    with pytest.raises(InvalidScoresError, match=r"mission has shape \(2,\), baseline \(3,\)"):
        paired_bca([1, 2], [1, 2, 3])
    with pytest.raises(InvalidScoresError, match="baseline: 1 of 2 scores are NaN"):
        paired_bca([1, 2], [1, math.nan])
    with pytest.raises(InvalidScoresError, match="mission: no scores"):
        paired_bca([], [])
    with pytest.raises(InvalidScoresError, match="a ratio needs one above 0"):
        paired_bca([1, 2], [0, 0], statistic="ratio")
    with pytest.raises(InvalidScoresError, match="confidence is 95"):
        paired_bca([1, 2], [0, 0], confidence=95)
    with pytest.raises(InvalidScoresError, match=r"wanted \[seeds, items\]"):
        cluster_bca([1, 2], [0, 0])
    with pytest.raises(InvalidScoresError, match="resamples: 10; at least 100"):
        bca([1, 2], resamples=10)
    with pytest.raises(InvalidScoresError, match="scores are integers, floats or booleans"):
        bca(["a"])


def test_missing_interval_says_why() -> None:
    """A sparse ratio, a constant difference and a single item name their reasons."""
    sparse = [0.0] * 19 + [1.0]

    assert "the ratio is undefined" in paired_bca([1.0] * 20, sparse, statistic="ratio").method
    assert "no interval: nothing varies" in paired_bca([1.0, 0.5], [0.5, 0.0]).method
    assert "no interval: one item" in bca([0.5]).method
