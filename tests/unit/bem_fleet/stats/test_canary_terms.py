"""Terms become gates; alpha is divided and never exceeded."""

import math

import pytest
from bem_fleet.stats.canary_terms import AnalysisTerms, gate_specs

TERMS = AnalysisTerms(
    alpha=0.05,
    max_pairs=20_000,
    error_margin=0.01,
    violation_margin=0.02,
    latency_margin=1.1,
    quality_margin=0.3,
    error_limit=5,
    violation_limit=6,
    min_answered=0.9,
    tail_ratio=1.25,
    p95_margin=0.03,
    p99_margin=0.04,
)


def test_the_rollback_alpha_is_shared_between_both_gates() -> None:
    """Together they spend no more than alpha; without probes live traffic has all of it."""
    live, quality = gate_specs(TERMS, with_quality=True)
    alone, none = gate_specs(TERMS, with_quality=False)

    assert quality is not None
    assert live.alpha + quality.alpha == pytest.approx(TERMS.alpha)
    assert live.alpha_promotion == quality.alpha_promotion == TERMS.alpha
    assert alone.alpha == TERMS.alpha
    assert none is None


def test_every_term_reaches_its_own_metric() -> None:
    """No two margins are mixed up, and what must be shown is what must not be lost."""
    live, _ = gate_specs(TERMS, with_quality=False)
    margins = {metric.name: metric.tolerated_loss for metric in live.metrics}

    assert margins == {
        "errors": 0.01,
        "violations": 0.02,
        "latency": pytest.approx(math.log(1.1)),
        "latency p95": 0.03,
        "latency p99": 0.04,
    }
    assert all(metric.required_gain == -metric.tolerated_loss for metric in live.metrics)
    assert [(wire.name, wire.events) for wire in live.tripwires] == [
        ("errors", 5),
        ("violations", 6),
    ]
    assert [(m.quantile, m.ratio) for m in live.metrics[3:]] == [(0.95, 1.25), (0.99, 1.25)]
    assert live.floors[0].level == 0.9
