"""Bootstrap distributions of means, paired differences and paired ratios, with BCa corrections.

Efron, "Better bootstrap confidence intervals", JASA 82 (1987): bias correction z0 from the share of
resamples below the estimate, acceleration a from the jackknife influence values.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from bem_fleet.stats.item_clusters import (
    Numbers,
    cluster_sizes,
    cluster_sums,
    few_clusters_factor,
    number_clusters,
)
from bem_fleet.stats.resampling import make_generator, resampled_means
from bem_fleet.stats.samples import (
    FloatArray,
    binary_scale,
    differences,
    validate_choice,
    validate_pairs,
    validate_scores,
)

Statistic = Literal["difference", "ratio"]

_TIE_TOLERANCE = 1e-6
_ERROR_PARTS = 20


@dataclass(frozen=True)
class BootstrapDistribution:
    """Values of a statistic on bootstrap resamples.

    Attributes:
        estimate: The statistic on the data.
        replicates: The statistic on each resample, [resamples].
        acceleration: Acceleration a of BCa, from the jackknife; NaN where nothing varies.
        n: Number of units that were resampled: items, or clusters of items.
        skewness: Skewness of the units' jackknife influence values.
        clusters: Number of training seeds; None where the data have no seed axis.
        item_clusters: Whether the units are clusters of items.
    """

    estimate: float
    replicates: FloatArray
    acceleration: float
    n: int
    skewness: float
    clusters: int | None = None
    item_clusters: bool = False

    @property
    def degenerate(self) -> bool:
        """Whether no interval exists: one item, all ties, or an undefined ratio."""
        # Relative to the values themselves: scores in another unit give the same decision.
        spread = float(np.ptp(self.replicates))
        scale = max(abs(self.estimate), float(np.abs(self.replicates).max()))
        return not np.isfinite(self.acceleration) or not spread > 1e-12 * scale

    @property
    def problem(self) -> str:
        """Reason why no interval exists; "" where one does."""
        if not self.degenerate:
            return ""
        if np.isnan(self.replicates).any():
            return "the baseline's mean is 0 in some resamples, so the ratio is undefined"
        one = "one cluster" if self.item_clusters else "one item"
        return one if self.n < 2 else "nothing varies"

    @property
    def bias(self) -> float:
        """Bias correction z0: normal quantile of the share of resamples below the estimate."""
        return float(ndtri(self.share_below(self.estimate)))

    def share_below(self, value: float, *, ties: float = 0.5) -> float:
        """Return the share of resamples below ``value``.

        The share lies between 1 / (R + 1) and R / (R + 1): R resamples resolve no smaller tail.

        Args:
            value: Value of the statistic.
            ties: Weight of resamples equal to ``value``, 0 to 1.
        """
        tie = _TIE_TOLERANCE * float(self.replicates.std())
        below = np.count_nonzero(self.replicates < value - tie)
        equal = np.count_nonzero(np.abs(self.replicates - value) <= tie)
        size = len(self.replicates)
        share = (below + ties * equal) / size
        return float(np.clip(share, 1 / (size + 1), size / (size + 1)))

    def quantile(self, level: float) -> float:
        """Return the endpoint of the one-sided BCa interval at ``level``."""
        z = self.bias + ndtri(level)
        adjusted = ndtr(self.bias + z / (1 - self.acceleration * z))
        return float(np.quantile(self.replicates, adjusted))

    def quantile_error(self, level: float) -> float:
        """Return the Monte-Carlo standard error of ``quantile(level)``.

        The endpoint is computed from each of 20 parts of the resamples, which are independent; the
        error of the whole is the spread of the parts over sqrt(20).
        """
        parts = np.array_split(self.replicates, _ERROR_PARTS)
        ends = [replace(self, replicates=part).quantile(level) for part in parts]
        return float(np.std(ends, ddof=1)) / math.sqrt(_ERROR_PARTS)

    def level(self, value: float, *, ties: float) -> float:
        """Return the level whose endpoint is ``value``: the inverse of ``quantile``.

        Args:
            value: Value of the statistic, usually the null value.
            ties: Weight of resamples equal to ``value``: 1 for a lower bound, which excludes a
                value only past all ties with it, 0 for an upper bound.
        """
        shift = ndtri(self.share_below(value, ties=ties)) - self.bias
        z = shift / (1 + self.acceleration * shift)
        # The transformation is monotone only while 1 + a * shift > 0. Beyond it the value lies
        # outside every interval, so the level is 0 or 1.
        if 1 + self.acceleration * shift <= 0:
            return 0.0 if shift < 0 else 1.0
        return float(ndtr(z - self.bias))


def bootstrap_mean(values: ArrayLike, *, resamples: int, seed: int) -> BootstrapDistribution:
    """Return the bootstrap distribution of the mean of ``values`` [n]."""
    sample = validate_scores(values, "values")
    means = resampled_means(sample[:, None], _require_resamples(resamples), make_generator(seed))[
        :, 0
    ]
    influence = sample - sample.mean()
    return BootstrapDistribution(
        estimate=float(sample.mean()),
        replicates=means,
        acceleration=_acceleration(influence),
        n=len(sample),
        skewness=_skewness(influence),
    )


def bootstrap_pairs(
    mission: ArrayLike,
    baseline: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int,
    seed: int,
    item_clusters: Sequence[Hashable] | None = None,
) -> BootstrapDistribution:
    """Return the bootstrap distribution of a paired statistic of two arrays [n].

    A ratio resamples both sides with the same indices, because the items are paired. With clusters
    whole clusters are drawn: the mean over items is then itself a ratio, of sums and sizes.
    """
    left, right = validate_pairs(mission, baseline)
    validate_choice(statistic, Statistic, "statistic")
    if item_clusters is not None:
        numbers = number_clusters(item_clusters, len(left))
        return _resample_clusters(left, right, statistic, numbers, resamples=resamples, seed=seed)
    if statistic == "difference":
        return bootstrap_mean(differences(left, right), resamples=resamples, seed=seed)
    _require_positive_baseline(right)
    means = resampled_means(
        np.stack([left, right], 1), _require_resamples(resamples), make_generator(seed)
    )
    influence = _ratio_influence(left, right)
    return BootstrapDistribution(
        estimate=float(left.mean() / right.mean()),
        replicates=_resample_ratios(means[:, 0], means[:, 1]),
        acceleration=_acceleration(influence),
        n=len(left),
        skewness=_skewness(influence),
    )


def _resample_clusters(
    left: FloatArray,
    right: FloatArray,
    statistic: Statistic,
    numbers: Numbers,
    *,
    resamples: int,
    seed: int,
) -> BootstrapDistribution:
    """Return the distribution of a paired statistic over clusters of items."""
    if statistic == "difference":
        above, below = cluster_sums(differences(left, right), numbers), cluster_sizes(numbers)
    else:
        _require_positive_baseline(right)
        above, below = cluster_sums(left, numbers), cluster_sums(right, numbers)
    means = resampled_means(
        np.stack([above, below], 1), _require_resamples(resamples), make_generator(seed)
    )
    influence = _ratio_influence(above, below)
    estimate = float(above.sum() / below.sum())
    errors = _resample_ratios(means[:, 0], means[:, 1]) - estimate
    return BootstrapDistribution(
        estimate=estimate,
        replicates=estimate + few_clusters_factor(len(below)) * errors,
        acceleration=_acceleration(influence),
        n=len(below),
        skewness=_skewness(influence),
        item_clusters=True,
    )


def bootstrap_clusters(
    mission: ArrayLike,
    baseline: ArrayLike,
    statistic: Statistic,
    *,
    resamples: int,
    seed: int,
    item_clusters: Sequence[Hashable] | None = None,
) -> BootstrapDistribution:
    """Return the bootstrap distribution over seeds x items of two arrays [seeds, items].

    Items are many and are resampled. Seeds are few: resampling S of them understates their spread,
    and far in the tail by an unbounded factor. The error of a resample is therefore

        kept * (replicate of the item means - estimate) + between * t(S - 1)

    where ``between`` is the jackknife standard error of the seeds and t(S - 1) a draw of Student's
    t. This is Fisher's solution for the sum of two errors with different degrees of freedom ("The
    fiducial argument in statistical inference", Annals of Eugenics 6, 1935); its coverage is at
    least nominal (Robinson, Annals of Statistics 4, 1976). The noise of single cells is part of
    the seeds' error, so ``kept`` removes it from the items' error by a two-way analysis of
    variance; otherwise it would count twice (Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1, 2007).
    """
    left, right = validate_pairs(mission, baseline, ndim=2)
    seeds = len(left)
    averaged = bootstrap_pairs(
        left.mean(axis=0),
        right.mean(axis=0),
        statistic,
        resamples=resamples,
        seed=seed,
        item_clusters=item_clusters,
    )
    if seeds == 1:
        return replace(averaged, clusters=1)
    if statistic == "difference":
        cells = differences(left, right)
        seed_influence = cells.mean(axis=1) - cells.mean()
    else:
        # First-order expansion of the ratio: the contribution of a cell to left / right.
        cells = (left - averaged.estimate * right) / right.mean()
        seed_influence = _ratio_influence(left.mean(axis=1), right.mean(axis=1))
    if item_clusters is not None:
        centre = averaged.estimate if statistic == "difference" else 0.0
        cells = _cluster_cells(cells - centre, item_clusters)
    between = float(np.sqrt((seed_influence**2).sum() / (seeds * (seeds - 1))))
    return _add_seed_error(averaged, _item_error_factor(cells), between, seeds=seeds, seed=seed)


def _add_seed_error(
    averaged: BootstrapDistribution, kept: float, between: float, *, seeds: int, seed: int
) -> BootstrapDistribution:
    """Return the distribution over items with the error of the seeds added.

    Args:
        averaged: Distribution of the means over the seeds.
        kept: Factor of the items' errors, 0 to 1.
        between: Standard error of the seeds.
        seeds: Number of training seeds, at least 2.
        seed: Random seed of the resamples.
    """
    errors = averaged.replicates - averaged.estimate
    # Evenly spaced quantiles in random order: independent of the items' errors, yet without the
    # sampling noise that random draws would add to the tails.
    rng = make_generator(seed).spawn(1)[0]
    students = rng.permutation(_student_quantiles(seeds - 1, len(errors)))
    item_error = kept * float(errors.std())
    return replace(
        averaged,
        replicates=averaged.estimate + kept * errors + between * students,
        # Seeds add spread but no skewness, which few values cannot estimate; the third moment
        # stays and the standard deviation grows, so the acceleration shrinks by its cube.
        acceleration=(
            averaged.acceleration * (item_error / math.hypot(item_error, between)) ** 3
            if item_error
            else 0.0
        ),
        clusters=seeds,
    )


def _cluster_cells(cells: FloatArray, item_clusters: Sequence[Hashable]) -> FloatArray:
    """Return what each cluster adds to the error of a statistic, [seeds, clusters].

    Args:
        cells: What each item adds, [seeds, items].
        item_clusters: Cluster of each item.
    """
    numbers = number_clusters(item_clusters, cells.shape[1])
    return cluster_sums(cells, numbers) / cluster_sizes(numbers).mean()


def _item_error_factor(cells: FloatArray) -> float:
    """Return the factor, 0 to 1, that frees the items' bootstrap error of the noise of cells.

    A two-way analysis of variance splits the cells [seeds, items] into items, seeds and noise; the
    factor is sqrt(1 - mean square of the noise / mean square of the items).
    """
    seeds, items = cells.shape
    item_means = cells.mean(axis=0)
    noise = cells - item_means - cells.mean(axis=1, keepdims=True) + cells.mean()
    items_square = seeds * float(item_means.var()) * items / max(items - 1, 1)
    noise_square = float((noise**2).sum()) / ((seeds - 1) * max(items - 1, 1))
    return math.sqrt(max(0.0, 1 - noise_square / items_square)) if items_square > 0 else 0.0


@lru_cache(maxsize=16)
def _student_quantiles(freedom: int, resamples: int) -> FloatArray:
    """Return the quantiles of Student's t at evenly spaced levels, rising, [resamples]."""
    return np.asarray(stdtrit(freedom, (np.arange(resamples) + 0.5) / resamples))


def _require_resamples(resamples: int) -> int:
    if resamples < 100:
        raise InvalidScoresError(f"resamples: {resamples}; at least 100 are needed")
    return resamples


def _require_positive_baseline(baseline: FloatArray) -> None:
    if not baseline.mean() > 0:
        raise InvalidScoresError(
            f"the baseline's mean is {baseline.mean():g}; a ratio needs one above 0"
        )


def _resample_ratios(above: FloatArray, below: FloatArray) -> FloatArray:
    """Divide; one resample with a baseline of 0 or less makes the whole statistic undefined."""
    if not (below > 0).all():
        return np.full(len(above), np.nan)
    return above / below


def _ratio_influence(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the jackknife influence values of sum(above) / sum(below), [n].

    The influence of item i is (n - 1) (mean of all leave-one-out ratios - ratio without i).
    """
    left_out = below.sum() - below
    if not (left_out > 0).all():
        return np.full(len(above), np.nan)
    values = (above.sum() - above) / left_out
    return np.asarray((len(above) - 1) * (values.mean() - values))


def _acceleration(influence: FloatArray) -> float:
    """Return the acceleration a = sum(u^3) / (6 sum(u^2)^1.5); NaN where nothing varies."""
    influence = influence / binary_scale(influence)
    squares = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * squares**1.5) if squares > 0 else math.nan


def _skewness(influence: FloatArray) -> float:
    influence = influence / binary_scale(influence)
    spread = float(influence.std())
    return float((influence**3).mean() / spread**3) if spread > 0 else float("nan")
