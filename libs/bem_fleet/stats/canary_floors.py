"""Canary floors: shares of the canary's own requests that promotion requires.

A comparison of two tracks cannot tell "both are well" from "both are broken": a canary that answers
nothing beside a stable that answers nothing is its equal. A floor asks for the level itself, by
bets against "the share is at most the level" at the promotion's alpha.

Example: level 0.9. Each answered request multiplies the wealth at the highest stake by
1 + 0.9 * 0.1 / 0.9 = 1.1, so about 55 answered requests without a gap show the level.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bem_fleet.stats.dependence import CorrelationTime
from bem_fleet.stats.samples import FloatArray, validate_fraction
from bem_fleet.stats.sequential import BettingTest


@dataclass(frozen=True)
class CanaryFloor:
    """Share of the canary's requests that promotion requires, whatever stable does.

    Attributes:
        name: Key of the canary's values, 0 or 1.
        level: Share that the canary must be shown to exceed, between 0 and 1.
    """

    name: str
    level: float

    def __post_init__(self) -> None:
        """Validate the level.

        Raises:
            InvalidScoresError: The level lies outside (0, 1).
        """
        validate_fraction(self.level, f"{self.name}.level")


class FloorTest:
    """Sequential test of one floor, per stream.

    Args:
        floor: Name and level.
        alpha: Probability of showing a level that is not reached, between 0 and 1.
        streams: Number of canaries side by side.
    """

    def __init__(self, floor: CanaryFloor, alpha: float, streams: int) -> None:
        self.floor = floor
        self.test = BettingTest(null=floor.level, low=0, high=1, alpha=alpha, streams=streams)
        self.dependence = CorrelationTime(streams)
        self._total = np.zeros(streams)

    def update(self, values: FloatArray) -> None:
        """Add the canary's next requests, [streams, n]: 1 where the event happened, else 0.

        Raises:
            InvalidScoresError: The conditions of ``BettingTest.update`` are not met.
        """
        self.dependence.update(values)
        self.test.update(values, self.dependence)
        self._total += values.sum(axis=1)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Whether the level was shown at any look, [streams]."""
        return self.test.rejected

    @property
    def shares(self) -> FloatArray:
        """Share so far, [streams]; NaN before the first request."""
        counts = self.dependence.counts
        return np.where(counts > 0, self._total / np.maximum(1, counts), np.nan)

    def open_condition(self, stream: int) -> str:
        """Return what promotion still waits for."""
        return (
            f"{self.floor.name} is not shown yet: {int(self._total[stream])} of "
            f"{int(self.dependence.counts[stream])} requests of the canary, promotion needs "
            f"{self.floor.level:.0%}"
        )
