"""Limits on what may happen to a canary, which act at the next look.

A count within a window is no test: looked at all the time, any limit is reached by some canaries
that change nothing, the sooner the more often stable itself breaks. So where the event is one that
stable has too, the pairs must also show that the canary has it more often, by bets at a share of
the rollback's alpha: then a canary that harms nothing trips at most that often, at any look.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray, fraction

# High stakes only: a slow harm is for the metric's own test.
_STAKES = np.array([0.9, 0.5])
_PACE = 100


@dataclass(frozen=True)
class Tripwire:
    """A limit on how often something may happen to the canary.

    Attributes:
        name: Key of its events.
        events: This many within ``window`` requests roll back at once.
        window: Last requests looked at; 1 with one event trips on any.
        metric: Metric whose pairs must also show more of it than is tolerated. None: what no
            faultless canary can have (a step beyond the trust region), so that it costs no alpha.
        weight: Share of the rollback's alpha, beside the metrics' own; only with a metric.
    """

    name: str
    events: int = 1
    window: int = 1
    metric: str | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Refuse limits that make no sense.

        Raises:
            InvalidScoresError: Events or window below 1, or a weight that is not above 0.
        """
        if self.events < 1 or self.window < 1 or not self.weight > 0:
            raise InvalidScoresError(
                f"tripwire {self.name!r}: {self.events} events in {self.window} requests, weight "
                f"{self.weight:g}; events and window start at 1, the weight lies above 0"
            )


class BurstTest:
    """Bets on a burst of losses that may begin at any time, stream by stream.

    Half of the wealth is staked from the first pair. The rest waits and is staked in equal parts
    every 100 pairs until the horizon, so that what was lost to an eventful past does not hide what
    happens now. Wealth that is moved at set times stays a supermartingale under "the mean loss is
    at most ``tolerated``", and Ville's inequality holds as for ``sequential.BettingTest``.

    Args:
        alpha: Chance, over all looks together, of a false alarm.
        tolerated: A mean loss up to this is no harm, 0 or more.
        reach: Largest absolute gain of one pair.
        horizon: Pairs at which the last part is staked.
        streams: Canaries side by side.

    Raises:
        InvalidScoresError: ``alpha`` outside (0, 1), or ``tolerated`` not from 0 to ``reach``.
    """

    def __init__(
        self,
        *,
        alpha: float,
        tolerated: float = 0.0,
        reach: float = 1.0,
        horizon: int = 10_000,
        streams: int = 1,
    ) -> None:
        if not 0 <= tolerated < reach:
            raise InvalidScoresError(f"tolerated is {tolerated}; it must lie from 0 to {reach}")
        self.alpha = fraction(alpha, "alpha")
        self.items = 0
        self._tolerated = tolerated
        self._stakes = _STAKES / (reach + tolerated)
        self._parts = max(1, horizon // _PACE)
        self._waiting = self._parts
        self._log_wealth = np.full((streams, len(_STAKES)), np.log(0.5 / len(_STAKES)))
        self._rejected = np.zeros(streams, dtype=bool)

    def update(self, gains: FloatArray) -> None:
        """Take the next gains [streams, n], each within the reach, and look."""
        taken, n = 0, gains.shape[1]
        while taken < n:
            due = min(n - taken, _PACE - self.items % _PACE)
            losses = -gains[:, taken : taken + due] - self._tolerated
            for k, stake in enumerate(self._stakes):
                self._log_wealth[:, k] += np.log1p(stake * losses).sum(axis=1)
            taken += due
            self.items += due
            self._rejected |= self.log_e >= -np.log(self.alpha)
            if self.items % _PACE == 0 and self._waiting:
                self._waiting -= 1
                part = np.log(0.5 / self._parts / len(_STAKES))
                self._log_wealth = np.logaddexp(self._log_wealth, part)

    @property
    def log_e(self) -> FloatArray:
        """Logarithm of the wealth now, [streams], what still waits included."""
        staked = np.logaddexp.reduce(self._log_wealth, axis=1)
        if not self._waiting:
            return np.asarray(staked)
        return np.asarray(np.logaddexp(staked, np.log(0.5 * self._waiting / self._parts)))

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Whether the alarm was ever raised, [streams]."""
        return self._rejected.copy()


class Watch:
    """One tripwire over the canaries that it watches.

    Args:
        wire: Its limits.
        test: Of the metric that it names; None where it names none.
        streams: Canaries side by side.
    """

    def __init__(self, wire: Tripwire, test: BurstTest | None, streams: int) -> None:
        self.wire = wire
        self._test = test
        self._recent = np.zeros((streams, wire.window - 1), dtype=bool)
        self._reached = np.zeros(streams, dtype=bool)

    def observe(self, happened: NDArray[np.bool_], gains: Mapping[str, FloatArray]) -> None:
        """Take the next requests.

        Args:
            happened: Whether each of the canary's requests had the event, [streams, n].
            gains: Of the same pairs by metric, [streams, n].
        """
        window = self.wire.window
        seen = np.concatenate([self._recent, happened], axis=1)
        sums = np.cumsum(np.pad(seen, ((0, 0), (1, 0))), axis=1)
        within = sums[:, window:] - sums[:, :-window]
        self._reached |= (within >= self.wire.events).any(axis=1)
        self._recent = seen[:, seen.shape[1] - (window - 1) :]
        if self._test is not None and self.wire.metric is not None:
            self._test.update(gains[self.wire.metric])

    @property
    def tripped(self) -> NDArray[np.bool_]:
        """Whether it has tripped, [streams]."""
        return self._reached.copy() if self._test is None else self._reached & self._test.rejected
