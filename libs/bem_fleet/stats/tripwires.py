"""Canary tripwires: event limits within a sliding window that roll back at once.

A count within a window is not a test: under continuous monitoring some canaries that change nothing
reach any limit, the sooner the higher the base rate of the event. Where stable has the event too,
the pairs must therefore also show that the canary has it more often, by bets (``BurstTest``) at a
share of the rollback's alpha. A harmless canary then trips with at most that probability, over all
looks together.

Example: ``Tripwire("error", events=10, window=50, metric="error")``. A canary fails on requests 201
to 210 while stable answers them: 10 events in 50 requests reach the limit. Each loss multiplies
the wealth at stake 0.9 by 1.9, ten losses by 1.9^10 = 613, from 0.25 to 153. That exceeds 1 / alpha
for any alpha above 0.0066, so the tripwire acts at request 210. If stable fails on the same
requests, the gains are 0, the wealth does not grow, and nothing trips.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray, validate_fraction

# High stakes only: the metric's own test detects slow harms.
_STAKE_GRID = np.array([0.9, 0.5])
_RESTAKE_INTERVAL = 100


@dataclass(frozen=True)
class Tripwire:
    """Limit on the frequency of an event on the canary.

    Attributes:
        name: Key of the events.
        events: Number of events within ``window`` requests that rolls back, at least 1.
        window: Length of the sliding window in requests, at least 1.
        metric: Metric whose pairs must also show a loss beyond the tolerated one. None is for
            events that no correct canary has (a step beyond the trust region); they need no
            alpha.
        weight: Share of the rollback's alpha relative to the metrics' weights, above 0; ignored
            without a metric.
    """

    name: str
    events: int = 1
    window: int = 1
    metric: str | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Validate the limits.

        Raises:
            InvalidScoresError: Events or window are below 1, or the weight is not above 0.
        """
        if self.events < 1 or self.window < 1 or not self.weight > 0:
            raise InvalidScoresError(
                f"tripwire {self.name!r}: {self.events} events in {self.window} requests, weight "
                f"{self.weight:g}; events and window start at 1, the weight lies above 0"
            )


class BurstTest:
    """Betting test for a burst of losses that may begin at any time, per stream.

    Half of the wealth is staked from the first pair. The other half is held in reserve and staked
    in equal parts every 100 pairs until the horizon, so that wealth lost on earlier pairs does not
    hide a burst now. Moving wealth at fixed times keeps it a supermartingale under "the mean loss
    is at most ``tolerated_loss``", and Ville's inequality holds as for
    ``sequential.BettingTest``.

    Args:
        alpha: Probability of a false alarm over all looks together, between 0 and 1.
        tolerated_loss: Largest mean loss that is no harm, from 0 to below ``bound``.
        bound: Largest absolute gain of one pair, above 0.
        horizon: Number of pairs at which the last part of the reserve is staked.
        streams: Number of canaries side by side.

    Raises:
        InvalidScoresError: ``alpha`` lies outside (0, 1), or ``tolerated_loss`` outside its range.
    """

    def __init__(
        self,
        *,
        alpha: float,
        tolerated_loss: float = 0.0,
        bound: float = 1.0,
        horizon: int = 10_000,
        streams: int = 1,
    ) -> None:
        if not 0 <= tolerated_loss < bound:
            raise InvalidScoresError(
                f"tolerated_loss: {tolerated_loss}; it must lie from 0 to below {bound}"
            )
        self.alpha = validate_fraction(alpha, "alpha")
        self.items = 0
        self._tolerated_loss = tolerated_loss
        self._stakes = _STAKE_GRID / (bound + tolerated_loss)
        self._parts = max(1, horizon // _RESTAKE_INTERVAL)
        self._reserve_parts = self._parts
        self._log_wealth = np.full((streams, len(_STAKE_GRID)), np.log(0.5 / len(_STAKE_GRID)))
        self._rejected = np.zeros(streams, dtype=bool)

    def update(self, gains: FloatArray) -> None:
        """Add the next gains, [streams, n], each within plus and minus the bound, and test."""
        done, n = 0, gains.shape[1]
        while done < n:
            # Split at multiples of the interval, so that the stakes do not depend on block sizes.
            size = min(n - done, _RESTAKE_INTERVAL - self.items % _RESTAKE_INTERVAL)
            losses = -gains[:, done : done + size] - self._tolerated_loss
            for k, stake in enumerate(self._stakes):
                self._log_wealth[:, k] += np.log1p(stake * losses).sum(axis=1)
            done += size
            self.items += size
            self._rejected |= self.log_e >= -np.log(self.alpha)
            if self.items % _RESTAKE_INTERVAL == 0 and self._reserve_parts:
                self._reserve_parts -= 1
                part = np.log(0.5 / self._parts / len(_STAKE_GRID))
                self._log_wealth = np.logaddexp(self._log_wealth, part)

    @property
    def log_e(self) -> FloatArray:
        """Logarithm of the current wealth including the reserve, [streams]."""
        staked = np.logaddexp.reduce(self._log_wealth, axis=1)
        if not self._reserve_parts:
            return np.asarray(staked)
        return np.asarray(np.logaddexp(staked, np.log(0.5 * self._reserve_parts / self._parts)))

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Whether the null hypothesis was rejected at any look, [streams]."""
        return self._rejected.copy()


class TripwireMonitor:
    """State of one tripwire over several canaries.

    Args:
        tripwire: Limits of the monitored events.
        test: Burst test of the tripwire's metric; None where it names no metric.
        streams: Number of canaries side by side.
    """

    def __init__(self, tripwire: Tripwire, test: BurstTest | None, streams: int) -> None:
        self.tripwire = tripwire
        self._test = test
        self._recent = np.zeros((streams, tripwire.window - 1), dtype=bool)
        self._reached = np.zeros(streams, dtype=bool)

    def observe(self, happened: NDArray[np.bool_], gains: Mapping[str, FloatArray]) -> None:
        """Add the next requests.

        Args:
            happened: Whether each request of the canary had the event, [streams, n].
            gains: Gains of the same pairs by metric, [streams, n].
        """
        window = self.tripwire.window
        seen = np.concatenate([self._recent, happened], axis=1)
        sums = np.cumsum(np.pad(seen, ((0, 0), (1, 0))), axis=1)
        within = sums[:, window:] - sums[:, :-window]
        self._reached |= (within >= self.tripwire.events).any(axis=1)
        self._recent = seen[:, seen.shape[1] - (window - 1) :]
        if self._test is not None and self.tripwire.metric is not None:
            self._test.update(gains[self.tripwire.metric])

    @property
    def tripped(self) -> NDArray[np.bool_]:
        """Whether the limit was reached and, with a metric, a loss was shown, [streams]."""
        return self._reached.copy() if self._test is None else self._reached & self._test.rejected
