"""What simulation says of the coverage of a 95 % BCa interval: ``results/coverage.md``.

BCa falls short where items are few or skewed. What predicts the shortfall is Edgeworth's first
term, |skewness| / sqrt(n), and n itself; the limits below are read off that table, and a test
checks them against it.
"""

import math
from typing import Literal

CoverageClass = Literal["nominal", "short", "poor", "few-seeds", "degenerate"]

ENOUGH_ITEMS = 200
FEW_ITEMS = 50
ENOUGH_SEEDS = 5
NOMINAL_SKEW = 0.10
SHORT_SKEW = 0.25


def coverage_class(n: int, skewness: float, clusters: int | None = None) -> CoverageClass:
    """Return the class of a 95 % interval.

    ``nominal``: within 1.5 points of 95 % in simulation. ``short``: within 4 points.
    ``poor``: worse, or not measured. ``few-seeds``: items would do, but under 5 seeds say too
    little of the spread between seeds. ``degenerate``: no interval.

    Args:
        n: Items.
        skewness: Of the items' differences (or jackknife influences).
        clusters: Seeds, where they were resampled too; 1 is no resampling of seeds.
    """
    if n < 2 or not math.isfinite(skewness):
        return "degenerate"
    pull = abs(skewness) / math.sqrt(n)
    if n < FEW_ITEMS or pull > SHORT_SKEW:
        return "poor"
    if n < ENOUGH_ITEMS or pull > NOMINAL_SKEW:
        return "short"
    if clusters is not None and 1 < clusters < ENOUGH_SEEDS:
        return "few-seeds"
    return "nominal"
