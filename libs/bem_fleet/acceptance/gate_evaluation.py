"""The verdict on one gate: figure, interval and p-value of each metric, and what is missing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray
from scipy.stats import binomtest

from bem_fleet.acceptance.catalogue import Direction, GateRule
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.stats.comparison import compare_pairs
from bem_fleet.stats.distribution import Statistic as OfMeans
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

GateStatus = Literal["pass", "fail", "not_measured"]


@dataclass(frozen=True)
class Measurement:
    """One statistic of one metric.

    Attributes:
        metric: Its name.
        figure: The estimate.
        low: Lower end of the 95 % interval; None where nothing varies.
        high: Upper end.
        p: The one for a family of claims, against the null value: the larger of inversion and
            sign flips (``bem_fleet.stats.comparison``), exact for a share. Two-sided for a comparison;
            for a gate, against its margin and in its direction, doubled, so that it is 1 on the
            wrong side of it. 1 where nothing varies.
        items: On each side.
        seeds: Training seeds.
        method: How the interval was made.
        coverage: What simulation says of its coverage; ``exact`` for a share.
        p_inversion: By inversion of the interval; None for a share, and in old records.
        p_permutation: By sign flips; None likewise.
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


@dataclass(frozen=True)
class GateVerdict:
    """What a gate says.

    Attributes:
        status: ``pass`` or ``fail``.
        reasons: What is missing, with figure and limit; empty on a pass.
    """

    status: GateStatus
    reasons: tuple[str, ...]


def compare_metric(
    metric: str,
    scores: PairedScores,
    statistic: OfMeans,
    null: float,
    *,
    direction: Direction | None = None,
    resamples: int = RESAMPLES,
) -> Measurement:
    """Compare both sides: BCa over items, or over seeds x items where there are seeds.

    Args:
        metric: Name for the result.
        scores: Both sides, [seeds, items].
        statistic: ``difference`` or ``ratio`` of means.
        null: Value that the p-value is of.
        direction: Side of the claim; None for a two-sided p-value.
        resamples: Of the bootstrap.

    Raises:
        InvalidScoresError: No baseline, or a ratio over a mean that is not above 0.
    """
    if scores.baseline is None:
        raise InvalidScoresError(f"{metric}: a {statistic} needs baseline scores")
    found = compare_pairs(
        scores.mission,
        scores.baseline,
        statistic=statistic,
        null=null,
        alternative=_ALTERNATIVES[direction],
        resamples=resamples,
    )
    seeds, items = scores.mission.shape
    interval, sides = found.interval, 1 if direction is None else 2
    return Measurement(
        metric=metric,
        figure=interval.estimate,
        low=interval.low if interval.conclusive else None,
        high=interval.high if interval.conclusive else None,
        # Without an interval nothing is claimed here, whatever sign flips would say.
        p=min(1.0, sides * found.p) if interval.conclusive else 1.0,
        items=items,
        seeds=seeds,
        method=interval.method,
        coverage=interval.coverage_class,
        p_inversion=min(1.0, sides * found.p_inversion),
        p_permutation=min(1.0, sides * found.p_permutation),
    )


def measure_gate(
    gate: GateRule, scores: Mapping[str, PairedScores], *, resamples: int = RESAMPLES
) -> list[Measurement]:
    """Measure each metric of a gate.

    Args:
        gate: The gate.
        scores: Holds all of its metrics.
        resamples: Of the bootstrap.

    Raises:
        InvalidScoresError: A baseline is missing, or a statistic is undefined.
    """
    return [_measure_metric(gate, name, scores[name], resamples) for name in gate.metrics]


def weakest_measurement(gate: GateRule, measured: Sequence[Measurement]) -> Measurement:
    """Return the measurement that stands for the gate, with the p-value of the whole claim.

    It is one that keeps the gate shut, if any does, and of those the furthest behind the target.
    All metrics must clear, so the largest p is a p-value of the whole claim
    (Berger, "Multiparameter hypothesis testing and acceptance sampling", 1982).
    """
    sign = 1 if gate.direction == "higher" else -1
    shown = min(measured, key=lambda one: (not _unmet_conditions(gate, one), sign * one.figure))
    return replace(shown, p=max(one.p for one in measured))


def evaluate_gate(
    gate: GateRule, measured: Sequence[Measurement], p_adjusted: float, *, alpha: float = ALPHA
) -> GateVerdict:
    """Return the verdict on all metrics of a gate.

    Args:
        gate: The gate.
        measured: One for each of its metrics.
        p_adjusted: The gate's p-value, adjusted over the family.
        alpha: False discovery rate.
    """
    reasons = [reason for one in measured for reason in _unmet_conditions(gate, one)]
    if p_adjusted > alpha:
        reasons.append(f"adjusted p {p_adjusted:.3g} exceeds {alpha:g}")
    return GateVerdict("fail" if reasons else "pass", tuple(reasons))


def _measure_metric(gate: GateRule, name: str, scores: PairedScores, resamples: int) -> Measurement:
    if gate.statistic == "share":
        return _measure_share(gate, name, scores.mission)
    statistic: OfMeans = "ratio" if gate.statistic == "ratio" else "difference"
    if gate.statistic == "mean":
        # The mean is its own difference from nothing: one code path for seeds and items.
        scores = PairedScores(scores.mission, np.zeros_like(scores.mission))
    return compare_metric(
        name, scores, statistic, gate.margin, direction=gate.direction, resamples=resamples
    )


def _measure_share(gate: GateRule, name: str, mission: NDArray[np.float64]) -> Measurement:
    """Return the share of items within the bound, with Clopper and Pearson's interval (1934).

    Exact, so that "never" and "always" have an interval too. Seeds answer the same items and are
    no further evidence: an item counts for the gate only if it does under every seed.
    """
    most = math.inf if gate.at_most is None else gate.at_most
    least = -math.inf if gate.at_least is None else gate.at_least
    within = (mission <= most) & (mission >= least)
    of_items = within.all(axis=0) if gate.direction == "higher" else within.any(axis=0)
    seeds, items = mission.shape
    hits = int(of_items.sum())
    found = binomtest(hits, items, gate.margin).proportion_ci(CONFIDENCE, method="exact")
    p = float(binomtest(hits, items, gate.margin, _ALTERNATIVES[gate.direction]).pvalue)
    return Measurement(
        metric=name,
        figure=hits / items,
        low=float(found.low),
        high=float(found.high),
        p=min(1.0, 2 * p),
        items=items,
        seeds=seeds,
        method="Clopper-Pearson interval of a share of items",
        coverage="exact",
    )


def _unmet_conditions(gate: GateRule, one: Measurement) -> list[str]:
    """Name what one metric lacks."""
    lacks = []
    if one.items < gate.min_items:
        lacks.append(f"{one.items} items of {gate.min_items}")
    if one.seeds < gate.min_seeds:
        lacks.append(f"{one.seeds} seeds of {gate.min_seeds}")
    sign = 1 if gate.direction == "higher" else -1
    if sign * (one.figure - gate.target) < -_TARGET_TOLERANCE * max(1.0, abs(gate.target)):
        lacks.append(f"{one.figure:.4g} does not reach {gate.target:g}")
    near = one.low if gate.direction == "higher" else one.high
    if near is None or math.isnan(near):
        lacks.append("nothing varies, so there is no interval")
    elif sign * (near - gate.margin) <= 0:
        lacks.append(f"the interval's end {near:.4g} does not clear {gate.margin:g}")
    return [f"{one.metric}: {lack}" for lack in lacks]
