"""Terms of a canary analysis, and the gates that decide by them.

The defaults of the terms are stated once, in the schema of the Mission resource
(``charts/crds/missions.yaml``); ``docs/operations.md`` explains them.
"""

import math
from dataclasses import dataclass

from bem_fleet.stats.canary_floors import CanaryFloor
from bem_fleet.stats.canary_gate import CanaryGateSpec
from bem_fleet.stats.canary_metrics import CanaryMetric
from bem_fleet.stats.tripwires import Tripwire

TRIPWIRE_WINDOW = 100
"""Number of latest requests in which a tripwire counts incidents."""
MAX_LOG_RATIO = math.log(4)
"""Largest log ratio of latencies that counts: one stalled request must not decide the bulk."""
# Share of alpha that live traffic may spend on a false rollback if probes share it.
_LIVE_SHARE = 0.9
# More than half of a false rollback's alpha is for gross failures, which must end within minutes;
# the slower tests have time and share the rest.
_ERRORS_TRIPWIRE_WEIGHT, _VIOLATIONS_TRIPWIRE_WEIGHT = 10.0, 2.0


@dataclass(frozen=True)
class AnalysisTerms:
    """Terms of a canary analysis; margins are how much worse the canary may be.

    Attributes:
        alpha: Probability of a false rollback, and of a false promotion, over all analyses.
        max_pairs: Number of pairs after which the canary is inconclusive.
        error_margin: Difference of error rates.
        violation_margin: Difference of the rates of withheld answers.
        latency_margin: Ratio of request latencies, above 1.
        quality_margin: Difference of mean F1 on the probes.
        error_limit: Errors within the tripwire's window that roll back at once, when the pairs
            show that stable has fewer.
        violation_limit: Withheld answers within the window that roll back at once, likewise.
        min_answered: Share of the canary's requests that must be shown to be answered.
        tail_ratio: Factor on stable's p95 and p99 beyond which a request is slow, above 1.
        p95_margin: Difference of the shares of requests that are slow by stable's p95.
        p99_margin: Difference of the shares of requests that are slow by stable's p99.
    """

    alpha: float
    max_pairs: int
    error_margin: float
    violation_margin: float
    latency_margin: float
    quality_margin: float
    error_limit: int
    violation_limit: int
    min_answered: float
    tail_ratio: float
    p95_margin: float
    p99_margin: float


def gate_specs(
    terms: AnalysisTerms, *, with_quality: bool
) -> tuple[CanaryGateSpec, CanaryGateSpec | None]:
    """Return the gates of live traffic and of the probes; None without probes.

    Either gate may roll back, so they split ``alpha`` between them (union bound). Both must be
    passed for a promotion, so each may spend all of it there (intersection-union test).
    """
    live = CanaryGateSpec(
        metrics=(
            _rate_metric("errors", terms.error_margin),
            _rate_metric("violations", terms.violation_margin),
            _latency_metric(math.log(terms.latency_margin)),
            _tail_metric("latency p95", 0.95, terms.tail_ratio, terms.p95_margin),
            _tail_metric("latency p99", 0.99, terms.tail_ratio, terms.p99_margin),
        ),
        tripwires=(
            _tripwire("errors", terms.error_limit, _ERRORS_TRIPWIRE_WEIGHT),
            _tripwire("violations", terms.violation_limit, _VIOLATIONS_TRIPWIRE_WEIGHT),
        ),
        floors=(CanaryFloor("answered", terms.min_answered),),
        max_items=terms.max_pairs,
        alpha=terms.alpha * (_LIVE_SHARE if with_quality else 1.0),
        alpha_promotion=terms.alpha,
    )
    if not with_quality:
        return live, None
    margin = terms.quality_margin
    quality = CanaryGateSpec(
        metrics=(
            # Probes are sent in an order drawn at random, each once: one says nothing of the next.
            CanaryMetric("quality", required_gain=-margin, tolerated_loss=margin, independent=True),
        ),
        max_items=terms.max_pairs,
        alpha=terms.alpha * (1 - _LIVE_SHARE),
        alpha_promotion=terms.alpha,
        look=1,  # probes are few and come slowly
    )
    return live, quality


def _tripwire(metric: str, limit: int, weight: float) -> Tripwire:
    return Tripwire(metric, limit, TRIPWIRE_WINDOW, metric, weight)


def _rate_metric(name: str, margin: float) -> CanaryMetric:
    return CanaryMetric(name, better="lower", required_gain=-margin, tolerated_loss=margin)


def _latency_metric(log_margin: float) -> CanaryMetric:
    return CanaryMetric(
        "latency",
        better="lower",
        scale="log_ratio",
        bound=MAX_LOG_RATIO,
        required_gain=-log_margin,
        tolerated_loss=log_margin,
    )


def _tail_metric(name: str, quantile: float, ratio: float, margin: float) -> CanaryMetric:
    return CanaryMetric(
        name,
        better="lower",
        scale="tail",
        source="latency",
        quantile=quantile,
        ratio=ratio,
        required_gain=-margin,
        tolerated_loss=margin,
    )
