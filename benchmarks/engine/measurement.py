"""Result of a benchmark measure, its targets, and timing in alternating rounds."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Target:
    """Target of a ratio.

    Attributes:
        bar: Value that the ratio must reach.
        at_most: Whether the ratio must stay at or below the bar instead.
    """

    bar: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        """Return whether ``ratio`` meets the target."""
        return ratio <= self.bar if self.at_most else ratio >= self.bar


@dataclass
class Measurement:
    """Result of one measure.

    Attributes:
        figures: JSON values by name.
        ratios: Medians over paired rounds by name; None where the other side is not installed.
        notes: Sentences for the report.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def not_measured(targets: Iterable[str], reason: str) -> Measurement:
    """Return the result of a measure whose other side is not there.

    Args:
        targets: Names of the ratios.
        reason: What is missing.
    """
    return Measurement(ratios=dict.fromkeys(targets), notes=[f"not measured: {reason}"])


Sides: TypeAlias = Mapping[str, Callable[[], float]]
"""What is compared, by name; each call returns a rate."""
Rates: TypeAlias = dict[str, list[float]]
"""Rates of each side, one per round."""


def alternating_rates(sides: Sides, rounds: int, *, warm_up: bool = True) -> Rates:
    """Run the sides in turn for some rounds, so that drift affects all of them alike.

    Args:
        sides: Functions that return a rate, by name.
        rounds: Number of rounds.
        warm_up: Whether each side runs once before the first round.

    Returns:
        Rates of each side, one per round.
    """
    for side in sides.values() if warm_up else ():
        side()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(side())
    return rates


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 3)


def medians(rates: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median rate of each side."""
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def per_second(work: Callable[[], object], items: int) -> float:
    """Return the items per second of one run of ``work``."""
    began = time.perf_counter()
    work()
    return items / (time.perf_counter() - began)
