"""Scores of both sides of a comparison, and the statistics of their paired difference."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from bem.errors import EvaluationError
from numpy.typing import NDArray

from bem_fleet.evaluation.execution import TimedResponse
from bem_fleet.evaluation.systems import ComparisonSide, EvaluationItem
from bem_fleet.scores.cache import ScoreCache
from bem_fleet.scores.metrics import score_functions
from bem_fleet.stats.comparison import compare_pairs

MetricScores = dict[str, NDArray[np.float64]]
"""Scores by metric, each [runs, items]."""

_STORED_DIGITS = 6
# Categories with fewer items have means but no interval: it would be too wide to read.
_MIN_CATEGORY_ITEMS = 10


@dataclass(frozen=True)
class MetricDifference:
    """Paired difference of one metric.

    Attributes:
        estimate: Mean of mission minus mean of baseline.
        ci_low: Lower bound of the 95 % interval; None where no interval exists.
        ci_high: Upper bound of the 95 % interval; None where no interval exists.
        p: Two-sided p-value for a family of claims (``bem_fleet.stats.comparison``).
        p_inversion: P-value by inversion of the interval alone.
        method: Description of interval and p-value.
        coverage_class: Coverage class of the interval (``bem_fleet.stats.coverage``).
    """

    estimate: float
    ci_low: float | None
    ci_high: float | None
    p: float
    p_inversion: float
    method: str
    coverage_class: str


def score_side(
    side: ComparisonSide,
    items: Sequence[EvaluationItem],
    answers: Sequence[Sequence[TimedResponse]],
    cache: ScoreCache,
) -> MetricScores:
    """Return the scores of a side by metric, [runs, items], rounded to six digits.

    Reports store six digits; statistics of the rounded scores can be reproduced from a report.

    Raises:
        InvalidScoresError: An item has no gold answer.
    """
    rows = [
        [
            cache.score(side.scoring_mode, given.response.text, item.golds)
            for item, given in zip(items, run, strict=True)
        ]
        for run in answers
    ]
    return {
        name: np.round(np.array([[scores[name] for scores in run] for run in rows]), _STORED_DIGITS)
        for name in score_functions(side.scoring_mode)
    }


def metric_differences(
    mission: MetricScores,
    baseline: MetricScores,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[str] | None = None,
) -> dict[str, MetricDifference]:
    """Return the paired difference of each metric that both sides have.

    Raises:
        EvaluationError: The items differ, no metric is common, or the runs cannot be paired.
    """
    shared = [name for name in mission if name in baseline]
    if not shared:
        raise EvaluationError(f"metrics: none is common to {list(mission)} and {list(baseline)}")
    return {
        name: metric_difference(
            mission[name],
            paired_runs(mission[name], baseline[name]),
            resamples,
            seed,
            clusters=clusters,
        )
        for name in shared
    }


def metric_difference(
    mission: NDArray[np.float64],
    baseline: NDArray[np.float64],
    resamples: int,
    seed: int,
    *,
    clusters: Sequence[str] | None = None,
) -> MetricDifference:
    """Return the paired difference of two score arrays [runs, items].

    One run gives an interval over items, more runs one over runs x items; with the cluster of each
    item clusters take the place of items.
    """
    comparison = compare_pairs(
        mission, baseline, resamples=resamples, seed=seed, item_clusters=clusters
    )
    interval = comparison.interval
    return MetricDifference(
        estimate=round(interval.estimate, _STORED_DIGITS),
        ci_low=_round_finite(interval.low),
        ci_high=_round_finite(interval.high),
        p=round(comparison.p, _STORED_DIGITS),
        p_inversion=round(comparison.p_inversion, _STORED_DIGITS),
        method=(
            f"{interval.method}, {resamples} resamples, seed {seed}; "
            "p by paired sign flips or by inversion of the interval, the larger one"
        ),
        coverage_class=interval.coverage_class,
    )


def compare_categories(
    items: Sequence[EvaluationItem],
    mission: MetricScores,
    baseline: MetricScores,
    *,
    resamples: int,
    seed: int,
    clusters: Sequence[str] | None = None,
) -> dict[str, dict[str, dict[str, object]]]:
    """Return both means by category and metric, and the paired difference from 10 items on."""
    tables: dict[str, dict[str, dict[str, object]]] = {}
    for category in sorted({item.category for item in items if item.category}):
        at = [place for place, item in enumerate(items) if item.category == category]
        table: dict[str, dict[str, object]] = {}
        for name in (name for name in mission if name in baseline):
            mission_scores = mission[name][:, at]
            baseline_scores = paired_runs(mission[name], baseline[name])[:, at]
            row: dict[str, object] = {
                "n_items": len(at),
                "mission": round(float(mission_scores.mean()), _STORED_DIGITS),
                "baseline": round(float(baseline_scores.mean()), _STORED_DIGITS),
            }
            if len(at) >= _MIN_CATEGORY_ITEMS:
                own = [clusters[place] for place in at] if clusters is not None else None
                row |= asdict(
                    metric_difference(
                        mission_scores, baseline_scores, resamples, seed, clusters=own
                    )
                )
            table[name] = row
        tables[category] = table
    return tables


def paired_runs(mission: NDArray[np.float64], baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of the baseline broadcast to the shape of the mission's, [runs, items].

    A baseline with one run is compared with every run of the mission.

    Raises:
        EvaluationError: The numbers of items differ, or the baseline has neither one run nor as
            many as the mission.
    """
    if mission.shape[1] != baseline.shape[1] or len(baseline) not in (1, len(mission)):
        raise EvaluationError(
            f"scores {mission.shape} and {baseline.shape} [runs, items] cannot be paired"
        )
    return np.broadcast_to(baseline, mission.shape)


def _round_finite(value: float) -> float | None:
    return round(value, _STORED_DIGITS) if math.isfinite(value) else None
