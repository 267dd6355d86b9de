"""A group-sequential sign-flip test: an error spent over the looks of a canary with an end.

Betting tests need no end and pay for it: on an unpaired split, where the noise of two requests
lies between canary and stable, the wealth against a loss of 5 points grows too slowly to be the
first to know. A canary's end is known (``max_items``), so its error can be spent where a harm
that matters should show: Lan and DeMets, "Discrete sequential boundaries for clinical trials",
Biometrika 70 (1983). The boundary is not taken from a normal limit but from random sign flips of
the same gains, all watched alike, so that "the canary changes nothing" holds its level exactly
for any distribution and any number of looks: Hemerik and Goeman, "Exact testing with random
permutations", TEST 27 (2018).
"""

from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.resampling import generator
from bem_fleet.stats.samples import FloatArray, fraction, scores

_TIE = 1e-9
# Pairs weigh alike but for this: scores of 0 and 1 have many sums that tie, and a limit at which
# dozens of paths tie lets none of them cross.
_UNEVEN = 1e-5


@dataclass(frozen=True)
class Spending:
    """How an error is spent over a canary.

    The share spent after n pairs is n^2 / (n^2 + m^2), scaled to 1 at the horizon: little at
    first, half about m, the rest slowly, so that a harm smaller than planned for can still show.

    Attributes:
        horizon: Pairs at the end; by then all is spent.
        half: The m above. Pairs that show the smallest harm that must be stopped; see
            ``effects.needed_items``.
        replicates: Sign-flipped paths beside the true one. The error is spent in steps of
            1 / (replicates + 1).
    """

    horizon: int
    half: int
    replicates: int = 2_000

    def __post_init__(self) -> None:
        """Refuse what spends nothing.

        Raises:
            InvalidScoresError: A number is below 1, or under 100 replicates.
        """
        if self.horizon < 1 or self.half < 1 or self.replicates < 100:
            raise InvalidScoresError(
                f"horizon {self.horizon} and half {self.half} start at 1, "
                f"replicates {self.replicates} at 100"
            )

    def share(self, items: int) -> float:
        """Return the share of the error that may be spent after ``items`` pairs, 0 to 1."""
        at, end = min(items, self.horizon) / self.half, self.horizon / self.half
        return (at**2 / (1 + at**2)) / (end**2 / (1 + end**2))


class FlipTest:
    """Watches for "the mean gain is below minus ``tolerated``", stream by stream.

    Exact when each gain plus ``tolerated`` is as likely to have the other sign (the canary changes
    nothing, or pairs of two requests in order of arrival); asymptotic in its mean otherwise, so
    for rare events bets are the safer test.

    Args:
        tolerated: A mean loss up to this is no harm, 0 or more.
        alpha: Chance, over all looks together, of a false rejection.
        spending: Where it is spent.
        streams: Canaries side by side; they share their flips.
        seed: Of the flips.

    Raises:
        InvalidScoresError: ``tolerated`` below 0 or alpha outside (0, 1).
    """

    def __init__(
        self,
        *,
        alpha: float,
        spending: Spending,
        tolerated: float = 0.0,
        streams: int = 1,
        seed: int = 0,
    ) -> None:
        if tolerated < 0:
            raise InvalidScoresError(f"tolerated is {tolerated}; it must be 0 or more")
        self.alpha = fraction(alpha, "alpha")
        self.items = 0
        self._tolerated, self._spending = tolerated, spending
        self._rng = generator(seed)
        # Column 0 is the true path.
        self._losses = np.zeros((streams, spending.replicates + 1))
        self._crossed = np.zeros(self._losses.shape, dtype=bool)
        self._level = np.ones(streams)

    def update(self, gains: ArrayLike) -> None:
        """Take the next gains, [n] for one stream or [streams, n], and look.

        Raises:
            InvalidScoresError: NaN, or the wrong number of streams.
        """
        given = np.asarray(gains, dtype=np.float64)
        block = scores(given, "gains", ndim=2 if given.ndim == 2 else 1).reshape(
            -1, given.shape[-1]
        )
        if len(block) != len(self._losses):
            raise InvalidScoresError(f"{len(block)} streams given, {len(self._losses)} are tested")
        flips = self._rng.integers(0, 2, (block.shape[1], self._losses.shape[1])) * 2.0 - 1
        flips[:, 0] = 1
        flips *= 1 + _UNEVEN * self._rng.random((block.shape[1], 1))
        self.items += block.shape[1]
        # What is decided stays, and needs no path.
        open_rows = np.flatnonzero(~self._crossed[:, 0])
        self._losses[open_rows] -= (block[open_rows] + self._tolerated) @ flips
        self._look(open_rows)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Whether the harm is shown at any look, [streams]."""
        return np.asarray(self._crossed[:, 0])

    @property
    def p_values(self) -> FloatArray:
        """Always-valid p-values, [streams]: the error spent when the harm was shown, 1 before."""
        return self._level.copy()

    def _look(self, rows: NDArray[np.intp]) -> None:
        """Let as many more of all paths cross as the spending allows, largest losses first."""
        paths = self._losses.shape[1]
        spent = self.alpha * self._spending.share(self.items)
        room = int(spent * paths) - self._crossed[rows].sum(axis=1)
        most = int(room.max(initial=0))
        if most < 1:
            return
        watched = np.where(self._crossed[rows], -np.inf, self._losses[rows])
        top = -np.sort(np.partition(-watched, most, axis=1)[:, : most + 1], axis=1)
        # Of paths that tie at the limit none crosses, so that never more do than may.
        limit = np.take_along_axis(top, room[:, None], axis=1)
        crossing = watched > limit + _TIE * (1 + np.abs(limit))
        self._crossed[rows] |= crossing
        self._level[rows[crossing[:, 0]]] = spent
