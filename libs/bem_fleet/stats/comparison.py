"""Paired comparison of two systems: estimate, BCa interval and p-value.

One bootstrap distribution gives both the interval and its inversion. The p-value for a family of
claims is the larger of inversion and sign flips, because each of the two fails where the other
holds; see ``pvalues``.

Two sides with the same score on every item are equal by definition: the interval is the value of
no change and nothing else, and the p-value is 1 unless the null lies on the worse side.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from bem_fleet.stats.bootstrap import Interval, bca_interval
from bem_fleet.stats.distribution import (
    BootstrapDistribution,
    Statistic,
    bootstrap_clusters,
    bootstrap_pairs,
)
from bem_fleet.stats.pvalues import Alternative, invert_interval, sign_flip_p_value
from bem_fleet.stats.samples import FloatArray, differences, validate_finite, validate_pairs

MAX_SETTLING_RESAMPLES = 640_000
"""Resamples at which ``compare_pairs`` gives up to settle on which side of the null a bound is."""
SETTLED_RATIO = 10
"""Distances of a bound to the null that its Monte-Carlo error must fit into."""


@dataclass(frozen=True)
class PairedComparison:
    """Result of a paired comparison.

    Attributes:
        interval: BCa interval over items, clusters of items, or seeds x either.
        p: P-value for a family of claims: the larger of the two below. It is below 0.05 only
            where the 95 % interval excludes the null, or where no interval exists because all
            items differ by the same amount; sign flips are exact in that case too.
        p_inversion: P-value by inversion of the interval; 1 where no interval exists.
        p_permutation: P-value by sign flips of the units' distances from the null, with each
            item averaged over the seeds.
        units: Number of units that were resampled: items, or clusters of items.
        bound_error: Monte-Carlo standard error of the bound nearer to the null.
        settled: Whether that error is at most a tenth of the bound's distance to the null.
    """

    interval: Interval
    p: float
    p_inversion: float
    p_permutation: float
    units: int
    bound_error: float = 0.0
    settled: bool = True


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
    item_clusters: Sequence[Hashable] | None = None,
    settle: bool = False,
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
        item_clusters: Cluster of each item, [items]; whole clusters are resampled and flipped.
            None means that each item is a unit of its own.
        settle: Draw more resamples, to ``MAX_SETTLING_RESAMPLES``, until the Monte-Carlo error of
            the bound nearer to the null is at most a tenth of its distance to it.

    Raises:
        InvalidScoresError: The conditions of ``bootstrap.paired_bca`` are not met, or the clusters
            are not those of the items.
    """
    left, right = _paired_arrays(mission, baseline)
    unchanged = 1.0 if statistic == "ratio" else 0.0
    value = unchanged if null is None else validate_finite(null, "null")
    bootstrap, method = _method(left.ndim, statistic, clustered=item_clusters is not None)
    bootstrapped = partial(
        bootstrap, left, right, statistic, resamples=resamples, item_clusters=item_clusters
    )
    found = bootstrapped(seed=seed)
    if not differences(left, right).any():
        return _equal_sides(found, value, unchanged, alternative, confidence)
    if settle:
        found = _settle(found, lambda n: bootstrapped(seed=seed + n), value, confidence)
    by_flips = sign_flip_p_value(
        np.atleast_2d(left).mean(axis=0),
        np.atleast_2d(right).mean(axis=0),
        null=None if value == unchanged else value,
        alternative=alternative,
        statistic=statistic,
        resamples=resamples,
        seed=seed,
        item_clusters=item_clusters,
    )
    interval = bca_interval(found, confidence, method)
    exact = found.degenerate and value == unchanged
    return _with_p_values(found, interval, by_flips, value, alternative, exact=exact)


def _with_p_values(
    found: BootstrapDistribution,
    interval: Interval,
    by_flips: float,
    null: float,
    alternative: Alternative,
    *,
    exact: bool,
) -> PairedComparison:
    """Return the comparison with the larger of both p-values, or the exact one of sign flips."""
    by_inversion = invert_interval(found, null, alternative)
    error, settled = _bound_error(found, null, interval.confidence)
    return PairedComparison(
        interval=interval,
        p=by_flips if exact else max(by_inversion, by_flips),
        p_inversion=by_inversion,
        p_permutation=by_flips,
        units=found.n,
        bound_error=error,
        settled=settled,
    )


def _paired_arrays(mission: ArrayLike, baseline: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both sides, [n] or [seeds, items]; a single seed has no axis of its own."""
    left, right = validate_pairs(mission, baseline, ndim=2 if np.ndim(mission) == 2 else 1)
    return (left[0], right[0]) if left.ndim == 2 and len(left) == 1 else (left, right)


def _method(
    axes: int, statistic: Statistic, *, clustered: bool
) -> tuple[Callable[..., BootstrapDistribution], str]:
    """Return the function that draws the resamples, and the name of the method for reports."""
    items = "clusters of items" if clustered else "items"
    if axes == 2:
        name = f"BCa cluster bootstrap over seeds x {items} of the {statistic} of means"
        return bootstrap_clusters, name
    over = f" over {items}" if clustered else ""
    return bootstrap_pairs, f"paired BCa bootstrap{over} of the {statistic} of means"


def _equal_sides(
    found: BootstrapDistribution,
    null: float,
    unchanged: float,
    alternative: Alternative,
    confidence: float,
) -> PairedComparison:
    """Return the comparison of two sides with the same score on every item."""
    above, below = unchanged > null, unchanged < null
    supported = {"greater": above, "less": below, "two-sided": above or below}[alternative]
    p = 1 / (len(found.replicates) + 1) if supported else 1.0
    interval = Interval(
        estimate=unchanged,
        low=unchanged,
        high=unchanged,
        confidence=confidence,
        resamples=0,
        method="equal by definition: both sides have the same score on every item",
        coverage_class="equal",
    )
    return PairedComparison(interval, p, p_inversion=p, p_permutation=p, units=found.n)


def _settle(
    found: BootstrapDistribution,
    draw: Callable[[int], BootstrapDistribution],
    null: float,
    confidence: float,
) -> BootstrapDistribution:
    """Return the distribution with as many resamples as settle the bound nearer to the null.

    Args:
        found: Distribution of the first draw.
        draw: Function from the number of a draw, 1 or more, to its distribution.
        null: Value under the null hypothesis.
        confidence: Nominal coverage of the interval.
    """
    pieces = [found]
    while len(found.replicates) < MAX_SETTLING_RESAMPLES:
        if _bound_error(found, null, confidence)[1]:
            break
        # Sums of all resamples at once would need gigabytes; further draws come in pieces.
        pieces += [draw(number) for number in range(len(pieces), 2 * len(pieces))]
        replicates = np.concatenate([piece.replicates for piece in pieces])
        found = replace(found, replicates=replicates)
    return found


def _bound_error(
    found: BootstrapDistribution, null: float, confidence: float
) -> tuple[float, bool]:
    """Return the Monte-Carlo error of the bound nearer to the null, and whether it is settled."""
    if found.degenerate:
        return 0.0, True
    tail = (1 - confidence) / 2
    level = min((tail, 1 - tail), key=lambda one: abs(found.quantile(one) - null))
    error = found.quantile_error(level)
    return error, SETTLED_RATIO * error <= abs(found.quantile(level) - null)
