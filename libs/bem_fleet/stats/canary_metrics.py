"""Canary metrics: how the values of both tracks become gains of pairs.

A metric compares the tracks pair by pair (``canary_floors`` looks at the canary alone), on one of
three scales:

- ``difference``: scores or rates, such as errors (0 or 1).
- ``log_ratio``: positive, unbounded values such as latencies: log(canary / stable), winsorised at
  ``bound``, so that one outlier counts as much as any other large value. It speaks of the bulk and
  is blind to the tail: every tenth request 100 times slower moves it by a tenth of the bound.
- ``tail``: whether a value exceeds ``ratio`` times a quantile of stable's past values, canary
  against stable. The threshold is known before the pair, so bets on it stay fair (the plug-in
  construction of Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B
  testing and best-arm identification", Bernoulli 28, 2022), and both tracks face the same one, so
  that traffic which becomes slower for both is no harm.

Example of a tail: stable's p95 of the last 1,000 answers is 2.0 s and ``ratio`` 1.25. A request
that takes the canary 3 s and stable 1 s is a gain of -1, because 3 s > 2.5 s; one that takes both
3 s is a gain of 0. If every tenth request of the canary takes 100 times as long, the mean gain is
about -0.1, five times a margin of 0.02.
"""

from dataclasses import dataclass
from typing import Literal, get_type_hints

import numpy as np
from bem.errors import InvalidScoresError

from bem_fleet.stats.samples import (
    FloatArray,
    validate_choice,
    validate_finite,
    validate_fraction,
)
from bem_fleet.stats.sequential import SequentialTest, SequentialTestSpec
from bem_fleet.stats.spending import AlphaSpending

TAIL_HISTORY = 1_000
"""Number of stable's latest values of which a tail's threshold is a quantile."""
_MIN_HISTORY = 20
# The threshold is taken anew at every look up to this many pairs, later once in so many pairs.
_EARLY, _INTERVAL = 200, 50


@dataclass(frozen=True)
class CanaryMetric:
    """Metric that decides on a canary.

    Attributes:
        name: Key of the metric's values.
        better: Whether ``higher`` or ``lower`` values are better.
        scale: ``difference``, ``log_ratio`` or ``tail``; see the module.
        bound: Largest absolute gain of one pair, above 0; 1 for scores from 0 to 1.
        required_gain: Mean gain that promotion must exceed: 0 or more for a goal, minus the
            non-inferiority margin for a guard (log scale: ``-log(1.10)`` for 10 %).
        tolerated_loss: Mean loss beyond which the canary is rolled back, 0 or more.
        futility_margin: The canary ends as inconclusive once the mean is shown to lie within plus
            and minus this; None disables it.
        weight: Weight in the division of the rollback's alpha, above 0.
        spending: Alpha-spending schedule of a sign-flip test for the loss; None uses bets. On an
            unpaired split, frequent, noisy gains need half the pairs with it; rare events need
            bets.
        source: Key of the values if it is not ``name``; several tails look at one latency.
        quantile: Quantile of stable's values that a tail's threshold follows, between 0 and 1.
        ratio: Factor on that quantile, above 0.
        independent: Whether pairs are separate questions in random order.
    """

    name: str
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["difference", "log_ratio", "tail"] = "difference"
    bound: float = 1.0
    required_gain: float = 0.0
    tolerated_loss: float = 0.0
    futility_margin: float | None = None
    weight: float = 1.0
    spending: AlphaSpending | None = None
    source: str = ""
    quantile: float = 0.95
    ratio: float = 1.0
    independent: bool = False

    def __post_init__(self) -> None:
        """Validate the choices and ranges.

        Raises:
            InvalidScoresError: ``better`` or ``scale`` is unknown, or a number is out of its range.
        """
        hints = get_type_hints(type(self))
        for choice in ("better", "scale"):
            validate_choice(getattr(self, choice), hints[choice], f"{self.name}.{choice}")
        for field in ("bound", "required_gain", "tolerated_loss", "weight", "ratio"):
            validate_finite(getattr(self, field), f"{self.name}.{field}")
        if not (self.bound > 0 and self.weight > 0 and self.tolerated_loss >= 0 and self.ratio > 0):
            raise InvalidScoresError(
                f"metric {self.name!r}: bound {self.bound:g}, weight {self.weight:g}, "
                f"tolerated_loss {self.tolerated_loss:g}, ratio {self.ratio:g}; bound, weight and "
                "ratio lie above 0, tolerated_loss is 0 or more"
            )
        validate_fraction(self.quantile, f"{self.name}.quantile")
        if self.scale == "tail" and self.better == "higher":
            raise InvalidScoresError(f"metric {self.name!r}: a tail is better lower")

    @property
    def key(self) -> str:
        """Key of the metric's values."""
        return self.source or self.name

    def sequential_test(
        self, alpha_better: float, alpha_worse: float, streams: int
    ) -> SequentialTest:
        """Return the test of the metric's gains.

        Args:
            alpha_better: Probability of showing a gain that is not there, between 0 and 1.
            alpha_worse: Probability of showing a loss that is not there, between 0 and 1.
            streams: Number of canaries side by side.
        """
        spec = SequentialTestSpec(
            bound=self.bound,
            required_gain=self.required_gain,
            tolerated_loss=self.tolerated_loss,
            futility_margin=self.futility_margin,
            alpha_better=alpha_better,
            alpha_worse=alpha_worse,
            spending=self.spending,
            independent=self.independent,
        )
        return SequentialTest(spec, streams)

    def gains(self, canary: FloatArray, stable: FloatArray) -> FloatArray:
        """Return the gain of each pair, above 0 where the canary is better.

        Args:
            canary: Values of the canary, [streams, n]. A tail has a ``TailThreshold`` instead.
            stable: Values of stable on the same requests, [streams, n].

        Raises:
            InvalidScoresError: A difference exceeds ``bound``, or a log-ratio has values that are
                not above 0.
        """
        sign = 1.0 if self.better == "higher" else -1.0
        if self.scale == "log_ratio":
            if not (canary.min() > 0 and stable.min() > 0):
                raise InvalidScoresError(f"metric {self.name!r}: a log-ratio needs values above 0")
            return sign * np.clip(np.log(canary / stable), -self.bound, self.bound)
        gains = sign * (canary - stable)
        if np.abs(gains).max() > self.bound + 1e-12:
            raise InvalidScoresError(
                f"metric {self.name!r}: a difference of {np.abs(gains).max():g} "
                f"exceeds its bound of {self.bound:g}"
            )
        return gains


class TailThreshold:
    """Running threshold of a tail metric, per stream.

    Args:
        metric: The tail metric.
        streams: Number of canaries side by side.
    """

    def __init__(self, metric: CanaryMetric, streams: int) -> None:
        self._metric = metric
        self._history = np.full((streams, TAIL_HISTORY), np.nan)
        self._threshold = np.full((streams, 1), np.nan)
        self._pairs = 0
        self._due = 0

    def gains(self, canary: FloatArray, stable: FloatArray) -> FloatArray:
        """Return the gains of the next pairs, then learn from stable's values.

        Args:
            canary: Values of the canary, [streams, n]; NaN where a side did not answer.
            stable: Values of stable, [streams, n], NaN in the same places.

        Returns:
            Gains -1, 0 or 1, [streams, n]; NaN without values or before 20 values of stable.
        """
        threshold = self._threshold
        known = np.isfinite(threshold) & np.isfinite(canary) & np.isfinite(stable)
        # The signs are the metric's: lower is better.
        gains = (stable > threshold).astype(np.float64) - (canary > threshold)
        self._learn(stable)
        return np.where(known, gains, np.nan)

    def _learn(self, stable: FloatArray) -> None:
        size = stable.shape[1]
        self._history = np.concatenate([self._history[:, size:], stable[:, -TAIL_HISTORY:]], axis=1)
        self._pairs += size
        if self._pairs < self._due:
            return
        self._due = self._pairs + (0 if self._pairs < _EARLY else _INTERVAL)
        # NaN sorts last, so the first values of each row are those that were seen.
        ordered = np.sort(self._history, axis=1)
        counts = np.isfinite(ordered).sum(axis=1, keepdims=True)
        index = np.clip(np.ceil(self._metric.quantile * counts) - 1, 0, None).astype(np.int64)
        quantiles = np.take_along_axis(ordered, index, axis=1) * self._metric.ratio
        self._threshold = np.where(counts >= _MIN_HISTORY, quantiles, np.nan)
