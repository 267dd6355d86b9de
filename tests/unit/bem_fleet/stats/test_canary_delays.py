"""Detection delays come from the gate and follow the terms."""

from dataclasses import replace

import pytest
from bem_fleet.stats import canary_delays
from bem_fleet.stats.canary_delays import CanaryBehaviour, DetectionDelay, detection_delays
from bem_fleet.stats.canary_gate import CanaryVerdict

from tests.unit.bem_fleet.stats.test_canary_terms import TERMS

LENIENT = replace(TERMS, p95_margin=0.1, p99_margin=0.1, error_margin=0.1, violation_margin=0.1)


def delay(
    monkeypatch: pytest.MonkeyPatch, behaviour: CanaryBehaviour, **changed: float
) -> DetectionDelay:
    """Return the delay of one behaviour under terms that are decided soon."""
    monkeypatch.setattr(canary_delays, "BEHAVIOURS", (behaviour,))
    terms = replace(LENIENT, **changed)  # type: ignore[arg-type]
    (found,) = detection_delays(terms, canaries=8, horizon=600)
    return found


def test_each_behaviour_ends_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equality is promoted, harm is rolled back, and the slow tail counts as harm."""
    verdicts = [
        delay(monkeypatch, behaviour).verdict
        for behaviour in (
            CanaryBehaviour("equal"),
            CanaryBehaviour("fails", errors=0.5),
            CanaryBehaviour("withholds", withheld=0.5),
            CanaryBehaviour("slow", slower=1.5),
            CanaryBehaviour("stalls", stalled=0.3, stall=50.0),
        )
    ]

    assert verdicts == [CanaryVerdict.PROMOTE, *[CanaryVerdict.ROLLBACK] * 4]


def test_a_smaller_harm_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a smaller alpha; the horizon ends what is undecided."""
    small = delay(monkeypatch, CanaryBehaviour("slow", slower=1.3))
    large = delay(monkeypatch, CanaryBehaviour("slow", slower=2.0))
    strict = delay(monkeypatch, CanaryBehaviour("slow", slower=1.3), alpha=0.0005)
    never = delay(monkeypatch, CanaryBehaviour("equal"), latency_margin=1.001)

    assert large.median < small.median < strict.median
    assert large.median <= large.late
    assert (never.verdict, never.median) == (CanaryVerdict.CONTINUE, 600)
