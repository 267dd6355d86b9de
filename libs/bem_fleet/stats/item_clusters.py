"""Clusters of items: the unit of resampling where items of one family succeed and fail together.

Attacks of one family, questions about one passage or requests of one user are not independent.
With an intra-class correlation r and m items in a cluster, an interval over items is too narrow by
the square root of the design effect 1 + (m - 1) r (Kish, "Survey Sampling", 1965), however many
items there are. Statistics of this package therefore sum the items of each cluster first and
resample, or flip the signs of, whole clusters.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray
from scipy.stats import norm, t

from bem_fleet.stats.samples import FloatArray

MIN_CLUSTERS = 20
"""Fewest clusters of which an interval is trusted (``results/coverage.md``)."""

Numbers = NDArray[np.int64]


def number_clusters(clusters: Sequence[Hashable], items: int) -> Numbers:
    """Return the number of each item's cluster, 0 for the first that occurs, [items].

    Args:
        clusters: Name of each item's cluster.
        items: Number of items.

    Raises:
        InvalidScoresError: There are more or fewer names than items.
    """
    if len(clusters) != items:
        raise InvalidScoresError(
            f"clusters: {len(clusters)} names for {items} items; every item has one cluster"
        )
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.int64)


def cluster_sums(values: FloatArray, numbers: Numbers) -> FloatArray:
    """Return the sum of each cluster's items, [..., clusters].

    Args:
        values: Values, [..., items].
        numbers: Number of each item's cluster, [items].
    """
    count = int(numbers.max()) + 1
    rows = np.atleast_2d(values)
    sums = np.zeros((len(rows), count))
    for total, row in zip(sums, rows, strict=True):
        np.add.at(total, numbers, row)
    return sums.reshape(*values.shape[:-1], count)


def cluster_sizes(numbers: Numbers) -> FloatArray:
    """Return the number of items of each cluster, [clusters]."""
    return np.bincount(numbers).astype(np.float64)


def few_clusters_factor(clusters: int) -> float:
    """Return the factor that widens the bootstrap error of a statistic of few clusters.

    Resampling G clusters understates the standard error by sqrt((G - 1) / G), and a percentile
    takes the normal quantile where Student's is due (Hesterberg, "What teachers should know about
    the bootstrap", The American Statistician 69, 2015).

    Args:
        clusters: Number of clusters, 1 or more.
    """
    if clusters < 2:
        return 1.0
    student = float(t.ppf(0.975, clusters - 1) / norm.ppf(0.975))
    return student * float(np.sqrt(clusters / (clusters - 1)))


def intraclass_correlation(values: FloatArray, numbers: Numbers) -> float:
    """Return the one-way intra-class correlation of the items, -1 to 1; 0 where nothing varies.

    Args:
        values: Scores or differences, [items].
        numbers: Number of each item's cluster, [items].
    """
    sizes = cluster_sizes(numbers)
    count, items = len(sizes), len(values)
    if count < 2 or items <= count:
        return 0.0
    means = cluster_sums(values, numbers) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means[numbers]) ** 2).sum()) / (items - count)
    typical = (items - float((sizes**2).sum()) / items) / (count - 1)
    total = between + (typical - 1) * within
    return (between - within) / total if total > 0 else 0.0
