"""Coverage classes of a 95 % BCa interval, calibrated by simulation (``results/coverage.md``).

BCa covers less than its nominal level where items are few or skewed. The first term of the
Edgeworth expansion, |skewness| / sqrt(n), and n itself predict the shortfall. The limits below were
read off the simulated table, and a test checks them against it.
"""

import math
from typing import Literal

from bem_fleet.stats.item_clusters import MIN_CLUSTERS

CoverageClass = Literal[
    "nominal", "short", "poor", "few-seeds", "few-clusters", "degenerate", "equal"
]

ENOUGH_ITEMS = 200
FEW_ITEMS = 50
ENOUGH_SEEDS = 5
NOMINAL_SKEW = 0.10
SHORT_SKEW = 0.25


def coverage_class(
    n: int, skewness: float, clusters: int | None = None, *, item_clusters: bool = False
) -> CoverageClass:
    """Return the class of a 95 % interval.

    ``nominal``: the simulated coverage is within 1.5 points of 95 %. ``short``: within 4 points.
    ``poor``: worse, or not simulated. ``few-seeds``: enough items, but under 5 seeds to estimate
    the spread between seeds. ``few-clusters``: under 20 clusters of items. ``degenerate``: no
    interval exists. ``equal``: both sides have the same scores, so that none is needed; it is
    not a result of this function.

    Args:
        n: Number of units: items, or clusters of items.
        skewness: Skewness of the units' differences (or jackknife influence values).
        clusters: Number of training seeds; None or 1 means that seeds add no error.
        item_clusters: Whether the units are clusters of items. The interval of few clusters is
            widened, so that from 20 on its coverage is ``short`` and not ``poor``.
    """
    if n < 2 or not math.isfinite(skewness):
        return "degenerate"
    edgeworth = abs(skewness) / math.sqrt(n)
    if item_clusters and n < FEW_ITEMS:
        return "short" if n >= MIN_CLUSTERS and edgeworth <= SHORT_SKEW else "few-clusters"
    if n < FEW_ITEMS or edgeworth > SHORT_SKEW:
        return "poor"
    if n < ENOUGH_ITEMS or edgeworth > NOMINAL_SKEW:
        return "short"
    if clusters is not None and 1 < clusters < ENOUGH_SEEDS:
        return "few-seeds"
    return "nominal"
