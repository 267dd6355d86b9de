"""Exact-like interval and p-value of a share of items that come in clusters.

Clopper and Pearson's interval (Biometrika 26, 1934) is exact for independent items. Where items of
one family succeed and fail together, the number of items is replaced by the effective number: the
one at which independent items would give the variance between clusters (Korn and Graubard, "Survey
Methodology" 24, 1998), lowered by the ratio of Student's to the normal quantile for few clusters.
Where all items agree there is no variance to measure, and the largest correlation that was found on
this project's data takes its place.

Example: 12 of 1,200 harmless texts of 40 families are withheld, all twelve of one family. As 1,200
independent texts the upper bound would be 1.7 %; the effective number is 93, and it is 5.7 %.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm, t

from bem_fleet.stats.item_clusters import cluster_sizes, cluster_sums, number_clusters
from bem_fleet.stats.samples import FloatArray

ASSUMED_CORRELATION = 0.33
"""Correlation by which a share without variance is judged: that of attacks of one family."""


@dataclass(frozen=True)
class ClusteredShare:
    """Share of items with its interval.

    Attributes:
        share: Share of the items, 0 to 1.
        low: Lower bound of the 95 % interval.
        high: Upper bound of the 95 % interval.
        p_greater: P-value against a share of at most the margin.
        p_less: P-value against a share of at least the margin.
        clusters: Number of clusters.
        effective_items: Number of independent items with the same variance.
    """

    share: float
    low: float
    high: float
    p_greater: float
    p_less: float
    clusters: int
    effective_items: float


def clustered_share(
    hits: NDArray[np.bool_],
    margin: float,
    *,
    item_clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> ClusteredShare:
    """Return the share of hits, exact for items without clusters.

    Args:
        hits: Whether each item counts, [items].
        margin: Share under the null hypothesis, 0 to 1.
        item_clusters: Cluster of each item, [items]; None means that items are independent.
        confidence: Nominal coverage, between 0 and 1.

    Raises:
        InvalidScoresError: The clusters are not those of the items.
    """
    values = hits.astype(np.float64)
    share = float(values.mean())
    names = range(len(values)) if item_clusters is None else item_clusters
    numbers = number_clusters(list(names), len(values))
    clusters = int(numbers.max()) + 1
    sizes = cluster_sizes(numbers)
    errors = cluster_sums(values, numbers) - share * sizes
    size = _effective_items(share, errors, sizes, confidence)
    successes = size * share
    tail = (1 - confidence) / 2
    return ClusteredShare(
        share=share,
        low=float(beta.ppf(tail, successes, size - successes + 1)) if share > 0 else 0.0,
        high=float(beta.ppf(1 - tail, successes + 1, size - successes)) if share < 1 else 1.0,
        # P(X >= x) and P(X <= x) of a binomial with the margin's share, for any real size.
        p_greater=float(beta.cdf(margin, successes, size - successes + 1)) if share > 0 else 1.0,
        p_less=float(beta.sf(margin, successes + 1, size - successes)) if share < 1 else 1.0,
        clusters=clusters,
        effective_items=size,
    )


def assumed_effective_items(items: float, clusters: int) -> float:
    """Return the effective number of items whose correlation is not measured but assumed.

    Args:
        items: Number of items.
        clusters: Number of clusters.
    """
    return items / (1 + (items / clusters - 1) * ASSUMED_CORRELATION)


def _effective_items(
    share: float, errors: FloatArray, sizes: FloatArray, confidence: float
) -> float:
    """Return the effective number of items.

    Args:
        share: Share of all items.
        errors: Hits of each cluster less those that the share predicts, [clusters].
        sizes: Number of items of each cluster, [clusters].
        confidence: Nominal coverage, between 0 and 1.
    """
    items, clusters = float(sizes.sum()), len(sizes)
    if clusters == items:  # independent items: the exact interval
        return items
    spread = share * (1 - share)
    if clusters < 2:
        return 1.0
    if spread == 0:
        return assumed_effective_items(items, clusters)
    variance = clusters / (clusters - 1) * float((errors**2).sum()) / items**2
    quantile = 1 - (1 - confidence) / 2
    few = float(norm.ppf(quantile) / t.ppf(quantile, clusters - 1)) ** 2
    return min(items, few * spread / variance) if variance > 0 else items
