"""BCa intervals of means, paired differences and paired ratios.

A statistic that does not vary (one item, all ties, a ratio whose baseline vanishes in some
resample) has no interval: its bounds are NaN and its class is ``degenerate``. NaN compares false,
so such an interval neither passes nor fails anything; ask ``conclusive``.
"""

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from bem_fleet.stats.coverage import CoverageClass, coverage_class
from bem_fleet.stats.distribution import (
    BootstrapDistribution,
    Statistic,
    of_clusters,
    of_mean,
    of_pairs,
)
from bem_fleet.stats.samples import fraction


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval.

    Attributes:
        estimate: The statistic on the data.
        low: Lower bound; NaN when degenerate.
        high: Upper bound; NaN when degenerate.
        confidence: Nominal coverage, such as 0.95.
        resamples: Bootstrap resamples drawn.
        method: How it was made, for the report.
        coverage_class: What simulation says of the true coverage; see ``coverage``.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    resamples: int
    method: str
    coverage_class: CoverageClass

    @property
    def conclusive(self) -> bool:
        """Whether there is an interval at all; without one no gate may pass."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def bca(
    values: ArrayLike, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the BCa interval of the mean of ``values`` [n].

    Raises:
        InvalidScoresError: Empty, NaN or infinite scores, or a level outside (0, 1).
    """
    found = of_mean(values, resamples=resamples, seed=seed)
    return interval_of(found, confidence, "BCa bootstrap of the mean")


def paired_bca(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    statistic: Statistic = "difference",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the BCa interval of a paired comparison.

    Args:
        mission: [n], one score an item.
        baseline: [n], of the same items in the same order.
        statistic: ``difference`` of means (mission - baseline) or ``ratio`` of means
            (mission / baseline, baseline's mean above 0).
        resamples: At least 100.
        confidence: Between 0 and 1.
        seed: Same seed, same interval.

    Raises:
        InvalidScoresError: Different lengths, NaN, nothing, or a ratio over a mean that is not
            above 0.
    """
    found = of_pairs(mission, baseline, statistic, resamples=resamples, seed=seed)
    return interval_of(found, confidence, f"paired BCa bootstrap of the {statistic} of means")


def cluster_bca(
    mission: ArrayLike,
    baseline: ArrayLike,
    *,
    statistic: Statistic = "difference",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the BCa interval over training seeds x items.

    Each resample draws n of the n items with replacement, and the seeds' error from Student's t
    with S - 1 degrees of freedom (``of_clusters`` names the papers), so that the interval is as
    wide as the few values of a spread ask for. One seed alone is the plain paired interval. With
    under 5 seeds the class says so: the interval holds, and is wide.

    Args:
        mission: [seeds, items].
        baseline: [seeds, items]; a baseline without seeds is repeated along the first axis.
        statistic: ``difference`` or ``ratio`` of means over all cells.
        resamples: At least 100.
        confidence: Between 0 and 1.
        seed: Of the resampling.

    Raises:
        InvalidScoresError: As of ``paired_bca``.
    """
    found = of_clusters(mission, baseline, statistic, resamples=resamples, seed=seed)
    method = f"BCa cluster bootstrap over seeds x items of the {statistic} of means"
    return interval_of(found, confidence, method)


def interval_of(found: BootstrapDistribution, confidence: float, method: str) -> Interval:
    """Return the two-sided BCa interval that a bootstrap distribution gives.

    Raises:
        InvalidScoresError: ``confidence`` lies outside (0, 1).
    """
    tail = (1 - fraction(confidence, "confidence")) / 2
    nothing = found.degenerate
    return Interval(
        estimate=found.estimate,
        low=math.nan if nothing else found.quantile(tail),
        high=math.nan if nothing else found.quantile(1 - tail),
        confidence=confidence,
        resamples=len(found.replicates),
        method=method,
        coverage_class=(
            "degenerate" if nothing else coverage_class(found.n, found.skewness, found.clusters)
        ),
    )
