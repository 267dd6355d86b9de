"""BCa bootstrap confidence intervals of means, paired differences and paired ratios.

BCa is the bias-corrected and accelerated bootstrap (Efron, "Better bootstrap confidence intervals",
JASA 82, 1987). With the bootstrap distribution function G, the normal distribution function Phi and
its quantile z(q), the endpoint at level q is

    G^-1( Phi( z0 + (z0 + z(q)) / (1 - a (z0 + z(q))) ) )

where z0 = Phi^-1(G(estimate)) corrects the median bias and a = sum(u^3) / (6 sum(u^2)^1.5) corrects
the skewness; u are the jackknife influence values of the items (see ``distribution``).

Example: two systems answer the same four items, exact match [1, 1, 1, 0] and [1, 0, 0, 0]. The
differences are [0, 1, 1, 0], the estimate is 0.5. A resample draws four of the four differences
with replacement; of 10,000 resample means 6 % are 0 and 6 % are 1, so the 95 % interval spans 0 to
1 and its ``coverage_class`` is ``poor``: four items decide nothing.

A statistic without variation (one item, all ties, a ratio whose baseline is 0 in some resample) has
no interval: its bounds are NaN and its class is ``degenerate``. NaN compares false, so that such an
interval neither passes nor fails a gate; check ``conclusive`` first.
"""

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from bem_fleet.stats.coverage import CoverageClass, coverage_class
from bem_fleet.stats.distribution import (
    BootstrapDistribution,
    Statistic,
    bootstrap_clusters,
    bootstrap_mean,
    bootstrap_pairs,
)
from bem_fleet.stats.samples import validate_fraction


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval.

    Attributes:
        estimate: The statistic on the data.
        low: Lower bound; NaN when degenerate.
        high: Upper bound; NaN when degenerate.
        confidence: Nominal coverage, between 0 and 1; 0.95 is the default of all functions here.
        resamples: Number of bootstrap resamples drawn.
        method: Name of the method, for reports; where no interval exists, with the reason.
        coverage_class: Simulated accuracy of the coverage; see ``coverage``.
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
        """Whether the interval exists; a gate without an interval does not pass."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def bca(
    values: ArrayLike, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the BCa interval of a mean.

    Args:
        values: Scores, [n].
        resamples: Number of bootstrap resamples, at least 100.
        confidence: Nominal coverage, between 0 and 1.
        seed: Random seed; the same seed gives the same interval.

    Raises:
        InvalidScoresError: Scores are empty, NaN or infinite, or a level lies outside (0, 1).
    """
    found = bootstrap_mean(values, resamples=resamples, seed=seed)
    return bca_interval(found, confidence, "BCa bootstrap of the mean")


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
        mission: Scores of the candidate, [n].
        baseline: Scores of the reference on the same items in the same order, [n].
        statistic: ``difference`` of means (mission - baseline) or ``ratio`` of means
            (mission / baseline; the mean of the baseline must be above 0).
        resamples: Number of bootstrap resamples, at least 100.
        confidence: Nominal coverage, between 0 and 1.
        seed: Random seed; the same seed gives the same interval.

    Raises:
        InvalidScoresError: Lengths differ, scores are empty, NaN or infinite, or a ratio has a
            baseline whose mean is not above 0.
    """
    found = bootstrap_pairs(mission, baseline, statistic, resamples=resamples, seed=seed)
    return bca_interval(found, confidence, f"paired BCa bootstrap of the {statistic} of means")


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

    Each resample draws n of the n items with replacement and adds an error of the seeds, drawn from
    Student's t with S - 1 degrees of freedom for S seeds (``distribution.bootstrap_clusters`` names
    the papers). One seed gives the plain paired interval. Under 5 seeds the coverage class is
    ``few-seeds``: the interval keeps its coverage and is wide.

    Args:
        mission: Scores of the candidate, [seeds, items].
        baseline: Scores of the reference, [seeds, items]; repeat a baseline without seeds along
            the first axis.
        statistic: ``difference`` or ``ratio`` of means over all cells.
        resamples: Number of bootstrap resamples, at least 100.
        confidence: Nominal coverage, between 0 and 1.
        seed: Random seed of the resampling.

    Raises:
        InvalidScoresError: The conditions of ``paired_bca`` are not met.
    """
    found = bootstrap_clusters(mission, baseline, statistic, resamples=resamples, seed=seed)
    method = f"BCa cluster bootstrap over seeds x items of the {statistic} of means"
    return bca_interval(found, confidence, method)


def bca_interval(distribution: BootstrapDistribution, confidence: float, method: str) -> Interval:
    """Return the two-sided BCa interval of a bootstrap distribution.

    Args:
        distribution: Bootstrap distribution of the statistic.
        confidence: Nominal coverage, between 0 and 1.
        method: Name of the method, for reports.

    Raises:
        InvalidScoresError: ``confidence`` lies outside (0, 1).
    """
    tail = (1 - validate_fraction(confidence, "confidence")) / 2
    degenerate = distribution.degenerate
    return Interval(
        estimate=distribution.estimate,
        low=math.nan if degenerate else distribution.quantile(tail),
        high=math.nan if degenerate else distribution.quantile(1 - tail),
        confidence=confidence,
        resamples=len(distribution.replicates),
        method=f"{method}; no interval: {distribution.problem}" if degenerate else method,
        coverage_class=(
            "degenerate"
            if degenerate
            else coverage_class(
                distribution.n,
                distribution.skewness,
                distribution.clusters,
                item_clusters=distribution.item_clusters,
            )
        ),
    )
