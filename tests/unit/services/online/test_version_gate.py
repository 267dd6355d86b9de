"""Gate of versions."""

import pytest
import torch
from bem.online.codebook import Condition
from bem_fleet.services.online.canary_suite import BASIC, PERFORMANCE, SAFETY, SuiteResult
from bem_fleet.services.online.code_learning import Learned
from bem_fleet.services.online.version_gate import GateLimits, findings

LIMITS = GateLimits(alpha=0.1, max_divergence=0.05, least_radius=0.75)
CONDITION = Condition("c", torch.zeros(4), 1.0, torch.zeros(8))


def judged(
    gains: list[float],
    *,
    kept: float = 0.0,
    unsafe: int = 0,
    divergence: float = 0.0,
    radius: float = 1.0,
    attempt: int = 1,
) -> list[str]:
    """Return the fields of the findings."""
    counts = dict.fromkeys((BASIC, SAFETY, PERFORMANCE), 10)
    suite = SuiteResult(
        counts,
        {BASIC: 0, SAFETY: unsafe, PERFORMANCE: 0},
        {BASIC: divergence, SAFETY: 0.0, PERFORMANCE: 0.0},
    )
    learned = Learned(CONDITION, {str(n): gain for n, gain in enumerate(gains)}, kept)
    found = findings(learned, suite, radius, attempt=attempt, limits=LIMITS)
    return [one.partition(":")[0] for one in found]


def test_good_version_passes() -> None:
    """All events are explained better, and nothing else changes."""
    assert judged([0.5] * 8) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"gains": [0.5] * 6 + [-0.5] * 2}, "feedback"),
        ({"gains": [0.5] * 8, "attempt": 2}, "feedback"),
        ({"gains": [0.5] * 8, "kept": 0.1}, "replay"),
        ({"gains": [0.5] * 8, "kept": float("nan")}, "replay"),
        ({"gains": [0.5] * 8, "unsafe": 1}, "safety"),
        ({"gains": [0.5] * 8, "divergence": 0.2}, "basic"),
        ({"gains": [0.5] * 8, "radius": 0.7}, "locality"),
        ({"gains": [0.5] * 8, "radius": float("nan")}, "locality"),
    ],
)
def test_each_condition_can_fail_alone(change: dict[str, object], finding: str) -> None:
    """The finding is named by its field; a figure that is not a number fails."""
    assert judged(**change) == [finding]  # type: ignore[arg-type]


def test_levels_of_all_attempts_sum_to_alpha() -> None:
    """However often a condition is tried, a version that helps nobody passes with at most alpha."""
    total = sum(LIMITS.level(attempt) for attempt in range(1, 100_000))

    assert total == pytest.approx(0.1, rel=1e-4)
