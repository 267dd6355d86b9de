"""Group-sequential sign-flip test with alpha spending, for canaries with a known horizon.

Betting tests need no horizon and pay for it in power: on an unpaired traffic split, where the noise
of two different requests separates canary and stable, the wealth against a loss of 5 points grows
slowly. A canary has a known horizon (``max_items``), so its error can be spent over the looks (Lan
and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70, 1983). The boundary
comes from random sign flips of the same gains instead of a normal limit: R flipped paths are
watched like the true one, so the level under "the canary changes nothing" is exact for any
distribution and any number of looks (Hemerik and Goeman, "Exact testing with random permutations",
TEST 27, 2018).

Example: alpha = 0.05 and 1,999 flipped paths beside the true one, 2,000 in all. At a look where the
schedule has spent 40 % of alpha, 0.05 * 0.4 * 2,000 = 40 paths may have crossed. If 25 crossed
before, the 15 paths with the largest losses cross now. The canary is shown to be worse when the
true path is among them, which under the null happens with probability 40 / 2,000 so far.
"""

from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.resampling import make_generator
from bem_fleet.stats.samples import FloatArray, validate_fraction, validate_scores

_TIE_TOLERANCE = 1e-9
# Relative jitter of the pairs' weights. Sums of scores of 0 and 1 tie often, and no path crosses a
# limit at which dozens of paths tie.
_WEIGHT_JITTER = 1e-5


@dataclass(frozen=True)
class AlphaSpending:
    """Alpha-spending schedule of a canary.

    The share spent after n pairs is n^2 / (n^2 + m^2), scaled to 1 at the horizon: little at first,
    about half at m, and the rest slowly, so that a harm smaller than planned can still be detected.

    Attributes:
        horizon: Number of pairs at which all of alpha is spent, at least 1.
        half_spent_at: Number of pairs m at which about half is spent, at least 1; the pairs that
            detect the smallest harm that must be stopped (``effects.required_items``).
        replicates: Number of sign-flipped paths beside the true one, at least 100. The error is
            spent in steps of 1 / (replicates + 1).
        block: Number of pairs in a row whose signs flip together, at least 1. Pairs that repeat
            each other need blocks of several correlation times (the wild bootstrap of dependent
            data: Shao, "The dependent wild bootstrap", JASA 105, 2010).
    """

    horizon: int
    half_spent_at: int
    replicates: int = 2_000
    block: int = 1

    def __post_init__(self) -> None:
        """Validate the schedule.

        Raises:
            InvalidScoresError: A number is below its minimum.
        """
        if min(self.horizon, self.half_spent_at, self.block) < 1 or self.replicates < 100:
            raise InvalidScoresError(
                f"horizon {self.horizon}, half_spent_at {self.half_spent_at} and block "
                f"{self.block} start at 1, replicates {self.replicates} at 100"
            )

    def share(self, items: int) -> float:
        """Return the share of alpha that may be spent after ``items`` pairs, 0 to 1."""
        at, end = min(items, self.horizon) / self.half_spent_at, self.horizon / self.half_spent_at
        return (at**2 / (1 + at**2)) / (end**2 / (1 + end**2))


class SignFlipTest:
    """Sequential test for "the mean gain lies below minus ``tolerated_loss``", per stream.

    The test is exact when each gain plus ``tolerated_loss`` is symmetric about 0 (the canary
    changes nothing, or pairs of two requests in order of arrival). Otherwise its level is
    asymptotic, so bets are the safer test for rare events.

    Args:
        tolerated_loss: Largest mean loss that is no harm, 0 or more.
        alpha: Probability of a false rejection over all looks together, between 0 and 1.
        spending: Alpha-spending schedule.
        streams: Number of canaries side by side; they share their sign flips.
        seed: Random seed of the sign flips.

    Raises:
        InvalidScoresError: ``tolerated_loss`` is below 0, or alpha lies outside (0, 1).
    """

    def __init__(
        self,
        *,
        alpha: float,
        spending: AlphaSpending,
        tolerated_loss: float = 0.0,
        streams: int = 1,
        seed: int = 0,
    ) -> None:
        if tolerated_loss < 0:
            raise InvalidScoresError(f"tolerated_loss: {tolerated_loss}; it must be 0 or more")
        self.alpha = validate_fraction(alpha, "alpha")
        self.items = 0
        self._tolerated_loss, self._spending = tolerated_loss, spending
        self._rng = make_generator(seed)
        # Column 0 is the true path.
        self._losses = np.zeros((streams, spending.replicates + 1))
        self._crossed = np.zeros(self._losses.shape, dtype=bool)
        self._level = np.ones(streams)
        self._open_block = np.zeros((streams, 0))

    def update(self, gains: ArrayLike) -> None:
        """Add the next gains, [n] for one stream or [streams, n], and test.

        The last pairs wait until their block is complete.

        Raises:
            InvalidScoresError: Gains are NaN or infinite, or the number of streams is wrong.
        """
        array = np.asarray(gains, dtype=np.float64)
        block = validate_scores(array, "gains", ndim=2 if array.ndim == 2 else 1).reshape(
            -1, array.shape[-1]
        )
        if len(block) != len(self._losses):
            raise InvalidScoresError(f"streams: got {len(block)}; the test has {len(self._losses)}")
        waiting = np.concatenate([self._open_block, block + self._tolerated_loss], axis=1)
        size = self._spending.block
        complete = waiting.shape[1] // size * size
        self._open_block = waiting[:, complete:]
        sums = waiting[:, :complete].reshape(len(waiting), -1, size).sum(axis=2)
        flips = self._rng.integers(0, 2, (sums.shape[1], self._losses.shape[1])) * 2.0 - 1
        flips[:, 0] = 1
        flips *= 1 + _WEIGHT_JITTER * self._rng.random((sums.shape[1], 1))
        self.items += complete
        # A rejection is final, so the paths of rejected streams are no longer needed.
        open_rows = np.flatnonzero(~self._crossed[:, 0])
        self._losses[open_rows] -= sums[open_rows] @ flips
        self._spend(open_rows)

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Whether the harm was shown at any look, [streams]."""
        return np.asarray(self._crossed[:, 0])

    @property
    def p_values(self) -> FloatArray:
        """Always-valid p-values, [streams]: alpha spent when the harm was shown, 1 before."""
        return self._level.copy()

    def _spend(self, rows: NDArray[np.intp]) -> None:
        """Let as many more paths cross as the schedule allows, largest losses first."""
        paths = self._losses.shape[1]
        spent = self.alpha * self._spending.share(self.items)
        room = int(spent * paths) - self._crossed[rows].sum(axis=1)
        most = int(room.max(initial=0))
        if most < 1:
            return
        watched = np.where(self._crossed[rows], -np.inf, self._losses[rows])
        top = -np.sort(np.partition(-watched, most, axis=1)[:, : most + 1], axis=1)
        # The limit is the largest loss that must not cross. Paths that tie with it do not cross
        # either, so that the number of crossings never exceeds the schedule.
        limit = np.take_along_axis(top, room[:, None], axis=1)
        crossing = watched > limit + _TIE_TOLERANCE * (1 + np.abs(limit))
        self._crossed[rows] |= crossing
        self._level[rows[crossing[:, 0]]] = spent
