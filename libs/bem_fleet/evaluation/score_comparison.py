"""Metrics and statistics: scores of both sides on the same items, and their difference."""

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
"""By metric: [runs, items]."""

_STORED_DIGITS = 6
# Below this an interval of a category says nothing that its mean does not.
_MIN_CATEGORY_ITEMS = 10


@dataclass(frozen=True)
class MetricDifference:
    """What is said of one metric.

    Attributes:
        estimate: Mean of mission minus mean of baseline.
        ci_low: Lower bound of the 95 % interval; None where there is none.
        ci_high: Upper bound.
        p: Two-sided, the one for a family of claims (``bem_fleet.stats.comparison``).
        p_inversion: By inversion of the interval alone.
        method: Of interval and p-value.
        coverage_class: What simulation says of the interval's true coverage.
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
    """Return a side's scores by metric, [runs, items], to six digits.

    Statistics are taken of what a report stores, so that they come out of it again exactly.

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
    mission: MetricScores, baseline: MetricScores, *, resamples: int = 10_000, seed: int = 0
) -> dict[str, MetricDifference]:
    """Return a claim for each metric that both sides have.

    Raises:
        EvaluationError: Different items, no common metric, or runs that cannot be paired.
    """
    shared = [name for name in mission if name in baseline]
    if not shared:
        raise EvaluationError(f"no common metric: {list(mission)} against {list(baseline)}")
    return {
        name: metric_difference(
            mission[name], paired_runs(mission[name], baseline[name]), resamples, seed
        )
        for name in shared
    }


def metric_difference(
    mission: NDArray[np.float64], baseline: NDArray[np.float64], resamples: int, seed: int
) -> MetricDifference:
    """Return what two arrays of scores [runs, items] say of their difference.

    One run: over items. More: over runs x items.
    """
    found = compare_pairs(mission, baseline, resamples=resamples, seed=seed)
    interval = found.interval
    return MetricDifference(
        estimate=round(interval.estimate, _STORED_DIGITS),
        ci_low=_round_finite(interval.low),
        ci_high=_round_finite(interval.high),
        p=round(found.p, _STORED_DIGITS),
        p_inversion=round(found.p_inversion, _STORED_DIGITS),
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
) -> dict[str, dict[str, dict[str, object]]]:
    """Return, by category and metric, both means and the claim where there are items enough."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for category in sorted({item.category for item in items if item.category}):
        at = [place for place, item in enumerate(items) if item.category == category]
        table: dict[str, dict[str, object]] = {}
        for name in (name for name in mission if name in baseline):
            ours = mission[name][:, at]
            theirs = paired_runs(mission[name], baseline[name])[:, at]
            row: dict[str, object] = {
                "n_items": len(at),
                "mission": round(float(ours.mean()), _STORED_DIGITS),
                "baseline": round(float(theirs.mean()), _STORED_DIGITS),
            }
            if len(at) >= _MIN_CATEGORY_ITEMS:
                row |= asdict(metric_difference(ours, theirs, resamples, seed))
            table[name] = row
        found[category] = table
    return found


def paired_runs(mission: NDArray[np.float64], baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the baseline's scores [runs, items] in the shape of the mission's.

    A baseline of one run stands against every run of the mission.

    Raises:
        EvaluationError: Other numbers of items, or of runs that are neither equal nor one.
    """
    if mission.shape[1] != baseline.shape[1] or len(baseline) not in (1, len(mission)):
        raise EvaluationError(
            f"scores {mission.shape} and {baseline.shape} [runs, items] cannot be paired"
        )
    return np.broadcast_to(baseline, mission.shape)


def _round_finite(value: float) -> float | None:
    return round(value, _STORED_DIGITS) if math.isfinite(value) else None
