"""A paired comparison whole: estimate, interval and the p-value that a family of claims takes.

One bootstrap serves both the interval and its inversion.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bem_fleet.stats.bootstrap import Interval, interval_of
from bem_fleet.stats.distribution import Statistic, of_clusters, of_pairs
from bem_fleet.stats.pvalues import Alternative, inverted, p_by_permutation
from bem_fleet.stats.samples import pairs


@dataclass(frozen=True)
class Compared:
    """What two sides say of each other.

    Attributes:
        interval: BCa, over items or over seeds x items.
        p: The larger of the two below: the one for a family of claims. It is below 0.05 only
            where the 95 % interval excludes the null, or where there is none because all items
            differ alike: sign flips of no change are exact then too.
        p_inversion: By inversion of the interval; 1 where there is none.
        p_permutation: By sign flips of the items' distances from the null, over the seeds' means.
    """

    interval: Interval
    p: float
    p_inversion: float
    p_permutation: float


def compare_pairs(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    statistic: Statistic = "difference",
    null: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Compared:
    """Compare two sides on the same items.

    Args:
        mission: [n], or [seeds, items]; one seed is the plain paired comparison.
        baseline: The same shape.
        statistic: ``difference`` or ``ratio`` of means.
        null: Value that the p-values are of; None: no change (0, or 1 for a ratio).
        alternative: Of the p-values; the interval is two-sided.
        resamples: Of the bootstrap and of the flips, at least 100.
        confidence: Of the interval, between 0 and 1.
        seed: Of both.

    Raises:
        InvalidScoresError: As of ``paired_bca``.
    """
    left, right = pairs(mission, baseline, ndim=2 if np.ndim(mission) == 2 else 1)
    if left.ndim == 2 and len(left) == 1:
        left, right = left[0], right[0]
    if left.ndim == 2:
        found = of_clusters(left, right, statistic, resamples=resamples, seed=seed)
        method = f"BCa cluster bootstrap over seeds x items of the {statistic} of means"
    else:
        found = of_pairs(left, right, statistic, resamples=resamples, seed=seed)
        method = f"paired BCa bootstrap of the {statistic} of means"
    unchanged = 1.0 if statistic == "ratio" else 0.0
    no_change = null is None or null == unchanged
    by_inversion = inverted(found, unchanged if null is None else null, alternative)
    by_flips = p_by_permutation(
        left.mean(axis=0) if left.ndim == 2 else left,
        right.mean(axis=0) if right.ndim == 2 else right,
        null=None if no_change else null,
        alternative=alternative,
        statistic=statistic,
        resamples=resamples,
        seed=seed,
    )
    return Compared(
        interval=interval_of(found, confidence, method),
        p=by_flips if found.degenerate and no_change else max(by_inversion, by_flips),
        p_inversion=by_inversion,
        p_permutation=by_flips,
    )
