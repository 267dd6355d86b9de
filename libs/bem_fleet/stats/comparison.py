"""Paired comparison of two systems: estimate, BCa interval and p-value.

One bootstrap distribution gives both the interval and its inversion. The p-value for a family of
claims is the larger of inversion and sign flips, because each of the two fails where the other
holds; see ``pvalues``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bem_fleet.stats.bootstrap import Interval, bca_interval
from bem_fleet.stats.distribution import Statistic, bootstrap_clusters, bootstrap_pairs
from bem_fleet.stats.pvalues import Alternative, invert_interval, sign_flip_p_value
from bem_fleet.stats.samples import validate_pairs


@dataclass(frozen=True)
class PairedComparison:
    """Result of a paired comparison.

    Attributes:
        interval: BCa interval over items or over seeds x items.
        p: P-value for a family of claims: the larger of the two below. It is below 0.05 only
            where the 95 % interval excludes the null, or where no interval exists because all
            items differ by the same amount; sign flips are exact in that case too.
        p_inversion: P-value by inversion of the interval; 1 where no interval exists.
        p_permutation: P-value by sign flips of the items' distances from the null, with each
            item averaged over the seeds.
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
) -> PairedComparison:
    """Compare two sides on the same items.

    Args:
        mission: Scores of the candidate, [n] or [seeds, items]; one seed is the plain paired
            comparison.
        baseline: Scores of the reference, in the same shape.
        statistic: ``difference`` or ``ratio`` of means.
        null: Value under the null hypothesis; None means no change (0, or 1 for a ratio).
        alternative: Side of the p-values; the interval is always two-sided.
        resamples: Number of bootstrap resamples and of sign flips, at least 100.
        confidence: Nominal coverage of the interval, between 0 and 1.
        seed: Random seed of the resamples and of the flips.

    Raises:
        InvalidScoresError: The conditions of ``bootstrap.paired_bca`` are not met.
    """
    left, right = validate_pairs(mission, baseline, ndim=2 if np.ndim(mission) == 2 else 1)
    if left.ndim == 2 and len(left) == 1:
        left, right = left[0], right[0]
    if left.ndim == 2:
        found = bootstrap_clusters(left, right, statistic, resamples=resamples, seed=seed)
        method = f"BCa cluster bootstrap over seeds x items of the {statistic} of means"
    else:
        found = bootstrap_pairs(left, right, statistic, resamples=resamples, seed=seed)
        method = f"paired BCa bootstrap of the {statistic} of means"
    unchanged = 1.0 if statistic == "ratio" else 0.0
    no_change = null is None or null == unchanged
    by_inversion = invert_interval(found, unchanged if null is None else null, alternative)
    by_flips = sign_flip_p_value(
        left.mean(axis=0) if left.ndim == 2 else left,
        right.mean(axis=0) if right.ndim == 2 else right,
        null=None if no_change else null,
        alternative=alternative,
        statistic=statistic,
        resamples=resamples,
        seed=seed,
    )
    return PairedComparison(
        interval=bca_interval(found, confidence, method),
        p=by_flips if found.degenerate and no_change else max(by_inversion, by_flips),
        p_inversion=by_inversion,
        p_permutation=by_flips,
    )
