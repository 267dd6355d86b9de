"""Version gate: whether a version may become live.

A version passes if its feedback shows out of sample that most events are explained better, if what
was known before is not forgotten, if the canary suite is answered as before, and if its radii,
which exclude every safety prompt, still find paraphrases. A figure that cannot be computed fails.
"""

import math
from dataclasses import dataclass

from bem_fleet.services.online.canary_suite import SuiteResult
from bem_fleet.services.online.code_learning import Learned, mostly_better

KEPT_LOSS = 0.05
"""Largest mean loss of events that were known before, nats a token."""


@dataclass(frozen=True)
class GateLimits:
    """Limits of the gate.

    Attributes:
        alpha: Probability with which a version that helps nobody passes the test of its feedback,
            over all attempts of a condition.
        max_divergence: Largest mean divergence on the basic and the performance prompts.
        least_radius: Smallest radius in scales.
    """

    alpha: float
    max_divergence: float
    least_radius: float

    def level(self, attempt: int) -> float:
        """Return the share of alpha of an attempt, from 1: the levels of all sum to alpha."""
        return 6 * self.alpha / (math.pi * attempt) ** 2


def findings(
    learned: Learned, suite: SuiteResult, radius: float, *, attempt: int, limits: GateLimits
) -> list[str]:
    """Return why a version may not become live; empty if it may.

    Args:
        learned: New code with the evidence for it.
        suite: Difference from the live version on the canary suite.
        radius: Radii of its conditions in scales.
        attempt: Number of the attempt on this condition since one passed, from 1.
        limits: Limits of the gate.
    """
    found = suite.findings(limits.max_divergence)
    level, gains = limits.level(attempt), list(learned.gains.values())
    if not mostly_better(gains, level):
        better = sum(gain > 0 for gain in gains)
        found.append(
            f"feedback: {better} of {len(gains)} events are explained better out of sample, which "
            f"does not show it at {level:.3g}; it is tried again with more feedback"
        )
    if not learned.kept_loss <= KEPT_LOSS:
        found.append(f"replay: earlier events lose {learned.kept_loss:.3g} nats a token")
    if not radius >= limits.least_radius:
        found.append(
            f"locality: radii of {radius:.3g} scales are below {limits.least_radius:g}; safety or "
            "unrelated prompts lie too near"
        )
    return found
