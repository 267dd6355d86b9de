"""The bootstrap distribution of a statistic, with what BCa needs to read it.

Efron, "Better bootstrap confidence intervals", JASA 82 (1987).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from bem.errors import InvalidScoresError
from bem.stats.resampling import cluster_weights, generator, resampled_means
from bem.stats.samples import FloatArray, pairs, scores

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

    def share_below(self, value: float) -> float:
        """Return the share of resamples below ``value``, ties counted half.

        Kept off 0 and 1 by one part in R + 1: R resamples cannot say more.
        """
        tie = _TIE * float(self.replicates.std())
        below = np.count_nonzero(self.replicates < value - tie)
        equal = np.count_nonzero(np.abs(self.replicates - value) <= tie)
        size = len(self.replicates)
        share = (below + equal / 2) / size
        return float(np.clip(share, 1 / (size + 1), size / (size + 1)))

    def quantile(self, level: float) -> float:
        """Return the endpoint of the one-sided BCa interval at ``level``."""
        z = self.bias + ndtri(level)
        adjusted = ndtr(self.bias + z / (1 - self.acceleration * z))
        return float(np.quantile(self.replicates, adjusted))

    def level(self, value: float) -> float:
        """Return the level whose endpoint is ``value``: the inverse of ``quantile``."""
        shift = ndtri(self.share_below(value)) - self.bias
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

    Seeds and items are resampled independently and crossed: the pigeonhole bootstrap
    (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007), seeds with the
    correction of ``cluster_weights``. It counts the variance between seeds, between items, and
    the noise of each cell somewhat too often, so it errs on the wide side where cells are noisy.
    """
    left, right = pairs(mission, baseline, ndim=2)
    seeds, items = left.shape
    if statistic == "ratio":
        _check_baseline(right)
    rng = generator(seed)
    columns = [left - right] if statistic == "difference" else [left, right]
    means = resampled_means(np.concatenate(columns).T, _checked(resamples), rng)
    weights = cluster_weights(seeds, resamples, rng)
    sides = [
        (means[:, k * seeds : (k + 1) * seeds] * weights).sum(axis=1) for k in range(len(columns))
    ]
    if statistic == "difference":
        of_items = columns[0].mean(axis=0) - columns[0].mean()
        of_seeds = columns[0].mean(axis=1) - columns[0].mean()
        estimate, replicates = float(columns[0].mean()), sides[0]
    else:
        of_items = _ratio_influence(left.mean(axis=0), right.mean(axis=0))
        of_seeds = _ratio_influence(left.mean(axis=1), right.mean(axis=1))
        estimate, replicates = float(left.mean() / right.mean()), _ratios(*sides)
    return BootstrapDistribution(
        estimate=estimate,
        replicates=replicates,
        acceleration=_acceleration(of_items, of_seeds) if seeds > 1 else _acceleration(of_items),
        n=items,
        skewness=_skewness(of_items),
        clusters=seeds,
    )


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


def _acceleration(*influences: FloatArray) -> float:
    """BCa's a over one or several samples; NaN where nothing varies."""
    cubes = sum(float((u**3).sum()) / len(u) ** 3 for u in influences)
    squares = sum(float((u**2).sum()) / len(u) ** 2 for u in influences)
    return cubes / (6 * squares**1.5) if squares > 0 else float("nan")


def _skewness(influence: FloatArray) -> float:
    spread = float(influence.std())
    return float((influence**3).mean() / spread**3) if spread > 0 else float("nan")
