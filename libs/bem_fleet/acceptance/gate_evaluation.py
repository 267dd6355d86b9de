"""Evaluation of one acceptance gate: estimate, interval and p-value of each metric, and verdict.

A gate passes when every metric has enough items and seeds, its estimate reaches the target, its
95 % interval excludes the margin, and the p-value of the gate, adjusted over all gates, is at most
5 %.

Example: gate "A.em_f1" has target +0.015 and margin 0, higher is better. Exact match differs by
+0.021 with the interval (+0.004, +0.038) and adjusted p 0.03: pass. With the interval
(-0.002, +0.044) the estimate still reaches the target, but the gate fails at the margin.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from bem.errors import InvalidScoresError

from bem_fleet.acceptance.catalogue import Direction, GateRule
from bem_fleet.acceptance.score_report import ITEM, PairedScores
from bem_fleet.stats.clustered_share import clustered_share
from bem_fleet.stats.comparison import compare_pairs
from bem_fleet.stats.distribution import Statistic as PairedStatistic
from bem_fleet.stats.pvalues import Alternative

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 10_000
# Ratios of means in float64 miss round targets by a few units in the last place.
_TARGET_TOLERANCE = 1e-9

_ALTERNATIVES: dict[Direction | None, Alternative] = {
    None: "two-sided",
    "higher": "greater",
    "lower": "less",
}

GateStatus = Literal["pass", "fail", "unverified", "not_measured"]
"""Result of a gate. ``unverified`` meets every condition by a report that is not verified."""


@dataclass(frozen=True)
class Measurement:
    """Measured statistic of one metric.

    Attributes:
        metric: Name of the metric.
        figure: Point estimate of the metric.
        low: Lower bound of the 95 % interval; None where nothing varies.
        high: Upper bound of the 95 % interval; None where nothing varies.
        p: P-value for a family of claims: the larger of inversion and sign flips
            (``bem_fleet.stats.comparison``), exact for a share. It is two-sided for a comparison.
            For a gate it is one-sided against the margin and doubled, so that it is 1 on the wrong
            side. It is 1 where nothing varies.
        items: Number of items on each side.
        seeds: Number of training seeds.
        method: Method of the interval.
        coverage: Coverage class of the interval; ``exact`` for a share.
        p_inversion: P-value by inversion; None for a share, and in old records.
        p_permutation: P-value by sign flips; None for a share, and in old records.
        unit: Unit of resampling, ``item`` or what a cluster is.
        units: Number of units that were resampled; 0 in old records.
        baseline: Mean score of the baseline; None without one.
        settled: Whether more resamples could not move the bound to the other side of the margin.
    """

    metric: str
    figure: float
    low: float | None
    high: float | None
    p: float
    items: int
    seeds: int
    method: str
    coverage: str
    p_inversion: float | None = None
    p_permutation: float | None = None
    unit: str = ITEM
    units: int = 0
    baseline: float | None = None
    settled: bool = True


@dataclass(frozen=True)
class GateVerdict:
    """Verdict on a gate.

    Attributes:
        status: ``pass`` or ``fail``.
        reasons: Unmet conditions with value and limit; empty on a pass.
    """

    status: GateStatus
    reasons: tuple[str, ...]


def compare_metric(
    metric: str,
    scores: PairedScores,
    statistic: PairedStatistic,
    null: float,
    *,
    direction: Direction | None = None,
    resamples: int = RESAMPLES,
) -> Measurement:
    """Measure a metric by comparing both sides, over items or over seeds x items.

    Args:
        metric: Name of the metric.
        scores: Scores of both sides, [seeds, items].
        statistic: ``difference`` or ``ratio`` of means.
        null: Value under the null hypothesis.
        direction: Direction of a gate, whose p-value is one-sided and doubled; None for a
            two-sided p-value.
        resamples: Number of bootstrap resamples, at least 100.

    Raises:
        InvalidScoresError: The baseline is missing, or a ratio has a baseline whose mean is not
            above 0.
    """
    if scores.baseline is None:
        raise InvalidScoresError(f"{metric}: a {statistic} needs baseline scores")
    comparison = compare_pairs(
        scores.mission,
        scores.baseline,
        statistic=statistic,
        null=null,
        alternative=_ALTERNATIVES[direction],
        resamples=resamples,
        item_clusters=scores.clusters,
        settle=direction is not None,
    )
    interval, sides = comparison.interval, 1 if direction is None else 2
    return Measurement(
        metric=metric,
        figure=interval.estimate,
        low=interval.low if interval.conclusive else None,
        high=interval.high if interval.conclusive else None,
        # A gate needs an interval, so sign flips alone do not count here.
        p=min(1.0, sides * comparison.p) if interval.conclusive else 1.0,
        items=scores.mission.shape[1],
        seeds=len(scores.mission),
        method=interval.method,
        coverage=interval.coverage_class,
        p_inversion=min(1.0, sides * comparison.p_inversion),
        p_permutation=min(1.0, sides * comparison.p_permutation),
        unit=scores.unit,
        units=comparison.units,
        baseline=float(scores.baseline.mean()),
        settled=comparison.settled,
    )


def measure_gate(
    gate: GateRule, scores: Mapping[str, PairedScores], *, resamples: int = RESAMPLES
) -> list[Measurement]:
    """Measure each metric of a gate.

    Args:
        gate: Rule of the gate.
        scores: Scores by metric, for all metrics of the gate.
        resamples: Number of bootstrap resamples, at least 100.

    Raises:
        InvalidScoresError: A baseline is missing, or a statistic is undefined.
    """
    return [_measure_metric(gate, name, scores[name], resamples) for name in gate.metrics]


def weakest_measurement(gate: GateRule, measured: Sequence[Measurement]) -> Measurement:
    """Return the measurement that represents the gate, with the p-value of the whole gate.

    Measurements with unmet conditions come first, then the one furthest behind the target. All
    metrics must meet the rule, so the largest p-value is a p-value of the gate (intersection-union
    test; Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24,
    1982).
    """
    sign = 1 if gate.direction == "higher" else -1
    decisive = min(measured, key=lambda one: (not _unmet_conditions(gate, one), sign * one.figure))
    return replace(decisive, p=max(one.p for one in measured))


def evaluate_gate(
    gate: GateRule, measured: Sequence[Measurement], p_adjusted: float, *, alpha: float = ALPHA
) -> GateVerdict:
    """Return the verdict on a gate.

    Args:
        gate: Rule of the gate.
        measured: Measurement of each metric.
        p_adjusted: P-value of the gate, adjusted over the family of gates.
        alpha: False discovery rate, between 0 and 1.
    """
    reasons = [reason for one in measured for reason in _unmet_conditions(gate, one)]
    if p_adjusted > alpha:
        reasons.append(f"adjusted p {p_adjusted:.3g} exceeds {alpha:g}")
    return GateVerdict("fail" if reasons else "pass", tuple(reasons))


def _measure_metric(gate: GateRule, name: str, scores: PairedScores, resamples: int) -> Measurement:
    if gate.statistic == "share":
        return _measure_share(gate, name, scores)
    statistic: PairedStatistic = "ratio" if gate.statistic == "ratio" else "difference"
    if gate.statistic == "mean":
        # A mean is the difference from a baseline of zeros: one code path for seeds and items.
        scores = replace(scores, baseline=np.zeros_like(scores.mission))
    return compare_metric(
        name, scores, statistic, gate.margin, direction=gate.direction, resamples=resamples
    )


def _measure_share(gate: GateRule, name: str, scores: PairedScores) -> Measurement:
    """Return the share of items within the bound, with an interval for shares of 0 and 1 too.

    It is Clopper and Pearson's (``bem_fleet.stats.clustered_share``). Seeds answer the same items
    and are no further evidence: an item counts only if it meets the bound under every seed (or,
    where lower is better, under any seed).
    """
    mission = scores.mission
    upper = math.inf if gate.at_most is None else gate.at_most
    lower = -math.inf if gate.at_least is None else gate.at_least
    within = (mission <= upper) & (mission >= lower)
    combine = np.logical_and if gate.direction == "higher" else np.logical_or
    counted = combine.reduce(within, axis=0)
    seeds, items = mission.shape
    found = clustered_share(
        counted, gate.margin, item_clusters=scores.clusters, confidence=CONFIDENCE
    )
    p = found.p_greater if gate.direction == "higher" else found.p_less
    size = "items" if scores.clusters is None else f"{found.effective_items:.0f} effective items"
    return Measurement(
        metric=name,
        figure=found.share,
        low=found.low,
        high=found.high,
        p=min(1.0, 2 * p),
        items=items,
        seeds=seeds,
        method=f"Clopper-Pearson interval of a share of {size}",
        coverage="exact" if scores.clusters is None else "short",
        unit=scores.unit,
        units=found.clusters,
    )


def _unmet_conditions(gate: GateRule, one: Measurement) -> list[str]:
    """Return the unmet conditions of one metric."""
    unmet = []
    if one.items < gate.min_items:
        unmet.append(f"{one.items} items of {gate.min_items}")
    if one.seeds < gate.min_seeds:
        unmet.append(f"{one.seeds} seeds of {gate.min_seeds}")
    sign = 1 if gate.direction == "higher" else -1
    if sign * (one.figure - gate.target) < -_TARGET_TOLERANCE * max(1.0, abs(gate.target)):
        unmet.append(f"{one.figure:.4g} does not reach {gate.target:g}")
    unmet += _unmet_evidence(gate, one)
    near = one.low if gate.direction == "higher" else one.high
    if near is None or math.isnan(near):
        unmet.append(f"there is no interval to judge ({one.method})")
    elif sign * (near - gate.margin) <= 0:
        unmet.append(f"the interval's end {near:.4g} does not clear {gate.margin:g}")
    elif not one.settled:
        unmet.append(
            f"the interval's end {near:.4g} lies too near to {gate.margin:g} to tell it from "
            "resampling noise"
        )
    return [f"{one.metric}: {condition}" for condition in unmet]


def _unmet_evidence(gate: GateRule, one: Measurement) -> list[str]:
    """Return what the suite lacks to judge the gate: the unit, enough clusters, a baseline."""
    unmet = []
    if one.unit != gate.unit:
        unmet.append(f"the report's unit is {one.unit}; this gate's is {gate.unit}")
    elif one.unit != ITEM and one.units < gate.min_clusters:
        unmet.append(f"{one.units} clusters of {gate.min_clusters}, the unit is {one.unit}")
    if gate.min_baseline is not None and (one.baseline or 0.0) < gate.min_baseline:
        unmet.append(
            f"the baseline scores {one.baseline or 0.0:.3f} of {gate.min_baseline:g}: the suite "
            "cannot show a loss"
        )
    return unmet
