"""What one measure found, and how pairs are timed."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bar for a ratio.

    Attributes:
        bar: What must be reached.
        at_most: Whether the ratio must stay below the bar instead.
    """

    bar: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        """Tell whether ``ratio`` reaches the bar."""
        return ratio <= self.bar if self.at_most else ratio >= self.bar


@dataclass
class Measurement:
    """What a measure found.

    Attributes:
        figures: Anything that JSON holds, by name.
        ratios: Medians over paired rounds; None where the other side is not there.
        notes: Sentences for the report.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def rates(
    sides: Mapping[str, Callable[[], float]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Run every side once to ``warm`` up, then in turn for some rounds; return their rates."""
    for side in sides.values() if warm else ():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 3)


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Return each side's median rate."""
    return {name: round(statistics.median(values), 1) for name, values in found.items()}


def per_second(work: Callable[[], object], items: int) -> float:
    """Return items a second of one run of ``work``."""
    began = time.perf_counter()
    work()
    return items / (time.perf_counter() - began)
