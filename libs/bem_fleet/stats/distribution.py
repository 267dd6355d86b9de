"""The bootstrap distribution of a statistic, with what BCa needs to read it.

Efron, "Better bootstrap confidence intervals", JASA 82 (1987).
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from bem_fleet.stats.resampling import generator, resampled_means
from bem_fleet.stats.samples import FloatArray, pairs, scores

Statistic = Literal["difference", "ratio"]

_TIE = 1e-6


@dataclass(frozen=True)
class BootstrapDistribution:
    """Resampled values of a statistic.

    Attributes:
        estimate: The statistic on the data.
        replicates: [R], the statistic on each resample.
        acceleration: BCa's a, from the jackknife.
        n: Items.
        skewness: Of the items' jackknife influences.
        clusters: Seeds, None where there is no such axis.
    """

    estimate: float
    replicates: FloatArray
    acceleration: float
    n: int
    skewness: float
    clusters: int | None = None

    @property
    def degenerate(self) -> bool:
        """Whether nothing can be concluded: one item, all ties, or a ratio that is undefined."""
        spread = float(np.ptp(self.replicates))
        scale = max(abs(self.estimate), 1.0)
        return not np.isfinite(self.acceleration) or not spread > 1e-12 * scale

    @property
    def bias(self) -> float:
        """BCa's z0: the normal quantile of the share of resamples below the estimate."""
        return float(ndtri(self.share_below(self.estimate)))

    def share_below(self, value: float, *, ties: float = 0.5) -> float:
        """Return the share of resamples below ``value``, ties counted half unless told otherwise.

        Kept off 0 and 1 by one part in R + 1: R resamples cannot say more.
        """
        tie = _TIE * float(self.replicates.std())
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

    def level(self, value: float, *, ties: float) -> float:
        """Return the level whose endpoint is ``value``: the inverse of ``quantile``.

        A lower bound excludes a value only past all ties with it (``ties`` 1), an upper bound
        likewise from above (``ties`` 0).
        """
        shift = ndtri(self.share_below(value, ties=ties)) - self.bias
        z = shift / (1 + self.acceleration * shift)
        # Beyond this the transformation folds back: the data exclude the value altogether.
        if 1 + self.acceleration * shift <= 0:
            return 0.0 if shift < 0 else 1.0
        return float(ndtr(z - self.bias))


def of_mean(values: ArrayLike, *, resamples: int, seed: int) -> BootstrapDistribution:
    """Return the distribution of the mean of ``values`` [n]."""
    sample = scores(values, "values")
    means = resampled_means(sample[:, None], _checked(resamples), generator(seed))[:, 0]
    influence = sample - sample.mean()
    return BootstrapDistribution(
        estimate=float(sample.mean()),
        replicates=means,
        acceleration=_acceleration(influence),
        n=len(sample),
        skewness=_skewness(influence),
    )


def of_pairs(
    mission: ArrayLike, baseline: ArrayLike, statistic: Statistic, *, resamples: int, seed: int
) -> BootstrapDistribution:
    """Return the distribution of a paired statistic of two arrays [n]."""
    left, right = pairs(mission, baseline)
    if statistic == "difference":
        return of_mean(left - right, resamples=resamples, seed=seed)
    _check_baseline(right)
    means = resampled_means(np.stack([left, right], 1), _checked(resamples), generator(seed))
    influence = _ratio_influence(left, right)
    return BootstrapDistribution(
        estimate=float(left.mean() / right.mean()),
        replicates=_ratios(means[:, 0], means[:, 1]),
        acceleration=_acceleration(influence),
        n=len(left),
        skewness=_skewness(influence),
    )


def of_clusters(
    mission: ArrayLike, baseline: ArrayLike, statistic: Statistic, *, resamples: int, seed: int
) -> BootstrapDistribution:
    """Return the distribution over seeds x items of two arrays [seeds, items].

    Items are many and resampled; seeds are few, and resampling S of them understates their
    spread, far in the tail by any factor. So a resample's error is that of its items, plus the
    seeds' standard error (jackknife) times a draw of Student's t with S - 1 degrees of freedom:
    Fisher's solution of the sum of two errors of unlike degrees of freedom ("The fiducial argument
    in statistical inference", Annals of Eugenics 6, 1935), which covers at least as often as it
    says (Robinson, Annals of Statistics 4, 1976). The seeds' error holds the noise of the cells
    once; the items' part is freed of it by the two-way analysis of variance (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1, 2007, on what else is counted twice).
    """
    left, right = pairs(mission, baseline, ndim=2)
    seeds = len(left)
    averaged = of_pairs(
        left.mean(axis=0), right.mean(axis=0), statistic, resamples=resamples, seed=seed
    )
    if seeds == 1:
        return replace(averaged, clusters=1)
    if statistic == "difference":
        cells = left - right
        of_seeds = cells.mean(axis=1) - cells.mean()
    else:
        cells = (left - averaged.estimate * right) / right.mean()
        of_seeds = _ratio_influence(left.mean(axis=1), right.mean(axis=1))
    between = float(np.sqrt((of_seeds**2).sum() / (seeds * (seeds - 1))))
    kept = _share_of_items(cells)
    errors = averaged.replicates - averaged.estimate
    students = generator(seed).spawn(1)[0].permutation(_students(seeds - 1, resamples))
    of_items = kept * float(errors.std())
    return replace(
        averaged,
        replicates=averaged.estimate + kept * errors + between * students,
        # Seeds add spread and, as few values tell of it, no skewness.
        acceleration=(
            averaged.acceleration * (of_items / math.hypot(of_items, between)) ** 3
            if of_items
            else 0.0
        ),
        clusters=seeds,
    )


def _share_of_items(cells: FloatArray) -> float:
    """Return the items' own share of the error that resampling them shows, as a factor 0 to 1.

    The rest is noise of the cells [seeds, items], which the seeds' means show too.
    """
    seeds, items = cells.shape
    of_items = cells.mean(axis=0)
    noise = cells - of_items - cells.mean(axis=1, keepdims=True) + cells.mean()
    between_items = seeds * float(of_items.var()) * items / max(items - 1, 1)
    of_cells = float((noise**2).sum()) / ((seeds - 1) * max(items - 1, 1))
    return math.sqrt(max(0.0, 1 - of_cells / between_items)) if between_items > 0 else 0.0


@lru_cache(maxsize=16)
def _students(freedom: int, resamples: int) -> FloatArray:
    """Return Student's t at evenly spaced levels, rising: draws without noise of their own."""
    return np.asarray(stdtrit(freedom, (np.arange(resamples) + 0.5) / resamples))


def _checked(resamples: int) -> int:
    if resamples < 100:
        raise InvalidScoresError(f"{resamples} resamples; at least 100 are needed")
    return resamples


def _check_baseline(baseline: FloatArray) -> None:
    if not baseline.mean() > 0:
        raise InvalidScoresError(
            f"the baseline's mean is {baseline.mean():g}; a ratio needs one above 0"
        )


def _ratios(above: FloatArray, below: FloatArray) -> FloatArray:
    """Divide; one resample whose baseline is not positive leaves the whole statistic undefined."""
    if not (below > 0).all():
        return np.full(len(above), np.nan)
    return above / below


def _ratio_influence(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return (n - 1)(mean of the jackknife values - jackknife value) of sum(above)/sum(below)."""
    left_out = below.sum() - below
    if not (left_out > 0).all():
        return np.full(len(above), np.nan)
    values = (above.sum() - above) / left_out
    return np.asarray((len(above) - 1) * (values.mean() - values))


def _acceleration(influence: FloatArray) -> float:
    """BCa's a; NaN where nothing varies."""
    squares = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * squares**1.5) if squares > 0 else math.nan


def _skewness(influence: FloatArray) -> float:
    spread = float(influence.std())
    return float((influence**3).mean() / spread**3) if spread > 0 else float("nan")
