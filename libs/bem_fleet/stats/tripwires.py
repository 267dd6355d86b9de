"""Canary tripwires: event limits within a sliding window that roll back at once.

A count within a window is not a test: under continuous monitoring some canaries that change nothing
reach any limit, the sooner the higher the base rate of the event. Where stable has the event too,
the pairs must therefore also show that the canary has it more often, by bets (``BurstTest``) at a
share of the rollback's alpha. A harmless canary then trips with at most that probability, over all
looks together.

Failures that come together are one incident: the bets see blocks of ``INCIDENT_BLOCK`` pairs, each
lost if the canary alone had the event in it. The level therefore holds for spells within a block
and, in simulation, for geometric spells of ten pairs on average on either track
(``results/canary_dependence.md``). A spell of six to eighteen blocks on the canary alone cannot be
told from an outage, and ends the canary as one does.

Against a stable without errors no test that allows for any rate of stable can multiply its wealth
by more than 2 with each error of the canary (Turner, Ly and Gruenwald, "Generic E-variables for
exact sequential k-sample tests that allow for optional stopping", JSPI 230, 2024): five errors are
the fewest that a level of 5 % allows, and the stake 0.98 needs six at 2.5 %.

Example: ``Tripwire("error", events=5, window=100, metric="error")`` at a share of alpha of 0.025,
no loss tolerated. Of a canary's requests each twelfth fails and none of stable's: the wealth at
stake, 0.8, becomes 0.8 * 1.98^6 = 48 with the sixth error, at pair 72, and exceeds 1 / 0.025. If
stable fails on the same requests, the blocks are even, the wealth does not grow, and nothing trips.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray, validate_fraction

INCIDENT_BLOCK = 4
"""Pairs of which the events count once."""
# High stakes only: the metric's own test detects slow harms. The higher one grows fastest while
# stable has no event, the lower one survives an event of stable.
_STAKE_GRID = np.array([0.98, 0.6])
_STAKED = np.array([0.8, 0.1])
_RESERVE = 1 - float(_STAKED.sum())
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

    Most of the wealth is staked from the first pair. The rest is held in reserve and staked in
    equal parts every 100 pairs until the horizon, so that wealth lost on earlier pairs does not
    hide a burst now. Moving wealth at fixed times keeps it a supermartingale under "the mean loss
    is at most ``tolerated_loss``", and Ville's inequality holds as for
    ``sequential.BettingTest``.

    Args:
        alpha: Probability of a false alarm over all looks together, between 0 and 1.
        tolerated_loss: Largest mean loss of a pair that is no harm, from 0 to below ``bound``.
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
        # A block is lost with at most the sum of its pairs' probabilities. Its null stays below the
        # bound, where a loss could win nothing any more.
        self._tolerated_loss = min(INCIDENT_BLOCK * tolerated_loss, (tolerated_loss + bound) / 2)
        self._stakes = _STAKE_GRID / (bound + self._tolerated_loss)
        self._parts = max(1, horizon // _RESTAKE_INTERVAL)
        self._reserve_parts = self._parts
        self._log_wealth = np.tile(np.log(_STAKED), (streams, 1))
        self._rejected = np.zeros(streams, dtype=bool)
        self._open_block = np.zeros((streams, 0))

    def update(self, gains: FloatArray) -> None:
        """Add the next gains, [streams, n], each within plus and minus the bound, and test.

        Args:
            gains: Gains of the pairs; NaN is a pair that is no evidence. The last pairs wait until
                their block is complete.
        """
        waiting = np.concatenate([self._open_block, np.nan_to_num(gains, nan=0.0)], axis=1)
        complete = waiting.shape[1] // INCIDENT_BLOCK * INCIDENT_BLOCK
        self._open_block = waiting[:, complete:]
        blocks = waiting[:, :complete].reshape(len(waiting), -1, INCIDENT_BLOCK)
        # The worst loss against the best gain: a spell within a block counts once on each side.
        losses = -np.minimum(blocks.min(axis=2, initial=0.0), 0.0)
        outcomes = losses - np.maximum(blocks.max(axis=2, initial=0.0), 0.0) - self._tolerated_loss
        for column in outcomes.T:
            self._log_wealth += np.log1p(self._stakes * column[:, None])
            self.items += INCIDENT_BLOCK
            self._rejected |= self.log_e >= -np.log(self.alpha)
            if self.items % _RESTAKE_INTERVAL == 0 and self._reserve_parts:
                self._reserve_parts -= 1
                part = np.log(_RESERVE / self._parts / len(_STAKE_GRID))
                self._log_wealth = np.logaddexp(self._log_wealth, part)

    @property
    def log_e(self) -> FloatArray:
        """Logarithm of the current wealth including the reserve, [streams]."""
        staked = np.logaddexp.reduce(self._log_wealth, axis=1)
        if not self._reserve_parts:
            return np.asarray(staked)
        return np.asarray(
            np.logaddexp(staked, np.log(_RESERVE * self._reserve_parts / self._parts))
        )

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
        sums = np.zeros((len(seen), seen.shape[1] + 1), dtype=np.int64)
        np.cumsum(seen, axis=1, out=sums[:, 1:])
        within = sums[:, window:] - sums[:, :-window]
        self._reached |= (within >= self.tripwire.events).any(axis=1)
        self._recent = seen[:, seen.shape[1] - (window - 1) :]
        if self._test is not None and self.tripwire.metric is not None:
            self._test.update(gains[self.tripwire.metric])

    @property
    def tripped(self) -> NDArray[np.bool_]:
        """Whether the limit was reached and, with a metric, a loss was shown, [streams]."""
        return self._reached.copy() if self._test is None else self._reached & self._test.rejected
