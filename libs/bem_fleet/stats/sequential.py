"""Tests that stay valid however often one looks, and whenever one stops.

``BettingTest`` bets against a null hypothesis on the mean of bounded observations; under the null
the wealth is a non-negative supermartingale, so by Ville's inequality it ever reaches 1/alpha
with probability at most alpha: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 86 (2024), arXiv 2010.09686. The stake is not tuned: a uniform
mixture over a fixed grid of stakes (their dKelly; Robbins' method of mixtures).
``ConfidenceSequence`` is that paper's predictable plug-in empirical Bernstein sequence.

No distribution and no independence is assumed, only that each observation lies between ``low``
and ``high`` and that its mean given the past is on the null's side. So paired score differences
(-1 to 1), rates (0 to 1) and winsorised log-ratios of latencies are all tested alike; see
``gate.Metric`` for the three.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.samples import FloatArray, fraction, scores
from bem_fleet.stats.spending import FlipTest, Spending

BoolArray = NDArray[np.bool_]

# Stakes as a share of the largest that cannot ruin; the growth rate near its optimum is flat, so
# eight of them a factor of 1.8 apart lose little to the best.
_STAKES = 0.9 / 1.8 ** np.arange(8)
# Within this many factors of 0.1 to 2 a float64 product neither over- nor underflows.
_PRODUCT = 100


class BettingTest:
    """Collects evidence against "the mean is at most ``null``" (or at least), stream by stream.

    Args:
        null: Mean under the null hypothesis, strictly between ``low`` and ``high``.
        low: Smallest possible observation.
        high: Largest.
        greater: True: the alternative is a larger mean; False: a smaller one.
        alpha: Chance, over all looks together, of a false rejection.
        streams: Independent tests run side by side (canaries, or simulated ones).

    Raises:
        InvalidScoresError: Bounds in the wrong order, a null outside them, alpha outside (0, 1).
    """

    def __init__(
        self,
        *,
        null: float,
        low: float = -1.0,
        high: float = 1.0,
        greater: bool = True,
        alpha: float = 0.05,
        streams: int = 1,
    ) -> None:
        if not low < null < high:
            raise InvalidScoresError(f"null {null} does not lie between {low} and {high}")
        self.alpha = fraction(alpha, "alpha")
        self.items = 0
        self._null, self._low, self._high = null, low, high
        self._sign = 1.0 if greater else -1.0
        worst = null - low if greater else high - null
        self._stakes = _STAKES / worst
        self._log_wealth = np.zeros((streams, len(_STAKES)))
        self._peak = np.zeros(streams)

    def update(self, values: ArrayLike) -> None:
        """Take the next observations, [n] for one stream or [streams, n].

        Raises:
            InvalidScoresError: NaN, outside the bounds, or the wrong number of streams.
        """
        given = np.asarray(values, dtype=np.float64)
        block = scores(given, "observations", ndim=2 if given.ndim == 2 else 1).reshape(
            -1, given.shape[-1]
        )
        if len(block) != len(self._peak):
            raise InvalidScoresError(f"{len(block)} streams given, {len(self._peak)} are tested")
        if block.min() < self._low - 1e-12 or block.max() > self._high + 1e-12:
            raise InvalidScoresError(
                f"observations from {block.min():g} to {block.max():g}; "
                f"the test holds only for {self._low:g} to {self._high:g}"
            )
        gains = self._sign * (block - self._null)
        for start in range(0, gains.shape[1], _PRODUCT):
            part = gains[:, start : start + _PRODUCT]
            for k, stake in enumerate(self._stakes):
                self._log_wealth[:, k] += np.log(np.prod(1 + stake * part, axis=1))
        self.items += block.shape[1]
        self._peak = np.maximum(self._peak, self.log_e)

    @property
    def log_e(self) -> FloatArray:
        """Logarithm of the wealth now, [streams]; e-values may be averaged and multiplied."""
        return np.asarray(
            np.logaddexp.reduce(self._log_wealth, axis=1) - np.log(self._log_wealth.shape[1])
        )

    @property
    def p_values(self) -> FloatArray:
        """Always-valid p-values, [streams]: 1 over the largest wealth at any look, at most 1."""
        return np.asarray(np.exp(-self._peak))

    @property
    def rejected(self) -> BoolArray:
        """Whether the null has fallen at any look, [streams]."""
        return np.asarray(self._peak >= -np.log(self.alpha))


class ConfidenceSequence:
    """An interval for the mean of one bounded stream that holds at all times at once.

    Args:
        low: Smallest possible observation.
        high: Largest.
        confidence: Chance that the interval never misses the mean.
    """

    def __init__(self, *, low: float = -1.0, high: float = 1.0, confidence: float = 0.95) -> None:
        if not low < high:
            raise InvalidScoresError(f"low {low} is not below high {high}")
        self._low, self._reach = low, high - low
        self._log = float(np.log(2 / (1 - fraction(confidence, "confidence"))))
        self.items = 0
        self._sum = self._squares = self._stakes = self._staked = self._cost = 0.0
        self._interval = (0.0, 1.0)

    def update(self, values: ArrayLike) -> None:
        """Take the next observations [n].

        Raises:
            InvalidScoresError: NaN or outside the bounds.
        """
        block = (scores(values, "observations") - self._low) / self._reach
        if block.min() < -1e-12 or block.max() > 1 + 1e-12:
            raise InvalidScoresError(
                f"an observation lies outside {self._low:g} to {self._low + self._reach:g}"
            )
        for x in block.tolist():
            self._take(x)

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound now; the bounds only ever tighten."""
        low, high = self._interval
        return self._low + self._reach * low, self._low + self._reach * high

    def _take(self, x: float) -> None:
        """Apply Theorem 2 of the paper to one observation in [0, 1]."""
        t = self.items + 1
        mean = (0.5 + self._sum) / t
        variance = (0.25 + self._squares) / t
        stake = min(0.75, (2 * self._log / (variance * t * np.log1p(t))) ** 0.5)
        self._stakes += stake
        self._staked += stake * x
        self._cost += (x - mean) ** 2 * (-np.log1p(-stake) - stake)
        self._sum += x
        self._squares += (x - (0.5 + self._sum) / (t + 1)) ** 2
        self.items = t
        centre, width = self._staked / self._stakes, (self._log + self._cost) / self._stakes
        low, high = self._interval
        self._interval = max(low, centre - width), min(high, centre + width)


class Outcome(StrEnum):
    """What a sequential test says so far."""

    CONTINUE = "continue"
    BETTER = "better"
    WORSE = "worse"
    FUTILE = "futile"


@dataclass(frozen=True)
class Question:
    """What is asked of the mean gain of one bounded stream.

    Attributes:
        reach: Largest absolute gain of one item.
        required: ``better`` once the mean is shown above this; below 0 for non-inferiority.
        tolerated: ``worse`` once the mean is shown below minus this, 0 or more.
        worthwhile: ``futile`` once the mean is shown to lie within this on both sides of 0, so
            that neither a gain nor a harm is still open; None: never.
        alpha_better: Chance of a false ``better`` over all looks.
        alpha_worse: Chance of a false ``worse`` or ``futile``, each.
        spending: Show ``worse`` by sign flips, spending ``alpha_worse`` so; None: by bets.
    """

    reach: float = 1.0
    required: float = 0.0
    tolerated: float = 0.0
    worthwhile: float | None = None
    alpha_better: float = 0.05
    alpha_worse: float = 0.05
    spending: Spending | None = None


class SequentialTest:
    """Watches one stream of gains (mission better: above 0) until something is shown.

    The three verdicts come from three tests at once, bets except where ``worse`` spends its error
    over a known end. ``worse`` is asked before ``better``: where both are shown (a small loss,
    within the margin), the worse one counts.

    Args:
        question: What to show.
        streams: Tests run side by side.
    """

    def __init__(self, question: Question, streams: int = 1) -> None:
        reach = question.reach
        if question.tolerated < 0:
            raise InvalidScoresError(f"tolerated is {question.tolerated}; it must be 0 or more")

        def test(null: float, alpha: float, *, greater: bool) -> BettingTest:
            return BettingTest(
                null=null, low=-reach, high=reach, greater=greater, alpha=alpha, streams=streams
            )

        self.better = test(question.required, question.alpha_better, greater=True)
        self.worse: BettingTest | FlipTest = (
            test(-question.tolerated, question.alpha_worse, greater=False)
            if question.spending is None
            else FlipTest(
                tolerated=question.tolerated,
                alpha=question.alpha_worse,
                spending=question.spending,
                streams=streams,
            )
        )
        # Two one-sided tests (Schuirmann, 1987): a harm must not pass for a lack of gain.
        self._within = (
            ()
            if question.worthwhile is None
            else (
                test(question.worthwhile, question.alpha_worse, greater=False),
                test(-question.worthwhile, question.alpha_worse, greater=True),
            )
        )
        self._total = np.zeros(streams)

    def update(self, gains: ArrayLike) -> None:
        """Take the next gains, [n] for one stream or [streams, n].

        Raises:
            InvalidScoresError: As of ``BettingTest.update``.
        """
        for test in (self.better, self.worse, *self._within):
            test.update(gains)
        self._total += np.asarray(gains, dtype=np.float64).sum(axis=-1)

    @property
    def futile(self) -> BoolArray:
        """Whether the mean is shown to be too near 0 to matter, [streams]."""
        if not self._within:
            return np.zeros(len(self._total), dtype=bool)
        above, below = self._within
        return above.rejected & below.rejected

    @property
    def means(self) -> FloatArray:
        """Mean gain so far, [streams]; NaN before the first."""
        items = self.better.items
        return self._total / items if items else np.full(len(self._total), np.nan)

    @property
    def outcomes(self) -> list[Outcome]:
        """One outcome a stream."""
        better, worse, futile = self.better.rejected, self.worse.rejected, self.futile
        return [
            Outcome.WORSE
            if w
            else Outcome.BETTER
            if b
            else Outcome.FUTILE
            if f
            else Outcome.CONTINUE
            for w, b, f in zip(worse, better, futile, strict=True)
        ]
