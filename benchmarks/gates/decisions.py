"""Decisions of a gate on many canaries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.gates.traces import LOOK

UNDECIDED, PROMOTED, ROLLED_BACK, INCONCLUSIVE = 0, 1, 2, 3


@dataclass(frozen=True)
class GateDecisions:
    """Decisions of a gate on one scenario.

    Attributes:
        verdicts: [seeds]: OPEN, PROMOTED, ROLLED_BACK or HELD (given up as inconclusive).
        items: [seeds]: requests of the canary until then; the horizon while open.
    """

    verdicts: NDArray[np.int64]
    items: NDArray[np.int64]


class DecisionLedger:
    """Recorder of the first decision on each of ``seeds`` canaries."""

    def __init__(self, seeds: int, horizon: int) -> None:
        self._verdicts = np.zeros(seeds, dtype=np.int64)
        self._items = np.full(seeds, horizon, dtype=np.int64)

    @property
    def open(self) -> NDArray[np.bool_]:
        """Whether a canary is undecided, [seeds]."""
        return np.asarray(self._verdicts == UNDECIDED)

    def decide(self, which: NDArray[np.bool_], verdict: int, look: int) -> None:
        """Record a verdict at the end of a look, counted from 0, for undecided canaries."""
        new = which & self.open
        self._verdicts[new] = verdict
        self._items[new] = (look + 1) * LOOK

    def outcomes(self) -> GateDecisions:
        """Return the recorded decisions."""
        return GateDecisions(self._verdicts, self._items)
