"""Anytime-valid sequential tests: betting e-processes and confidence sequences.

The error rates hold at every stopping time, so a test may be checked after every observation.
``BettingTest`` bets against a null hypothesis "the mean is at most m" on observations x_1, x_2, ...
between ``low`` and ``high``. With a stake l, the wealth after t observations is

    W_t(l) = prod over i <= t of (1 + l (x_i - m)),   0 < l < 1 / (m - low)

Under the null, W_t is a non-negative supermartingale with W_0 = 1, so by Ville's inequality it
ever reaches 1 / alpha with probability at most alpha (Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 86, 2024, arXiv 2010.09686). The stake is not tuned:
the wealth is the mean over a fixed grid of stakes (their dKelly; Robbins' method of mixtures).
``ConfidenceSequence`` is that paper's predictable plug-in empirical Bernstein sequence.

Example: null m = 0, bounds -1 and 1, one stake l = 0.5. The gains +1, +1, 0, +1 multiply the
wealth by 1.5, 1.5, 1 and 1.5, to 3.375: the always-valid p-value is 1 / 3.375 = 0.30. A gain of -1
would halve the wealth. At alpha = 0.05 the test rejects once the wealth reaches 20, here after
eight gains of +1 without a loss (1.5^8 = 25.6).

``BettingTest`` assumes no distribution, only that each observation lies between ``low`` and
``high`` and that its conditional mean given the past satisfies the null. Paired score differences
(-1 to 1), rates (0 to 1) and winsorised log-ratios of latencies are therefore tested alike; see
``canary_metrics.CanaryMetric``. An autocorrelated stream breaks the condition: after a slow pair
the next one is probably slow too, whatever the mean is. ``SequentialTest`` therefore divides the
log-wealth by the stream's correlation time (``dependence``) and concludes nothing from fewer than
ten effective observations.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import ArrayLike, NDArray

from bem_fleet.stats.dependence import CorrelationTime
from bem_fleet.stats.samples import FloatArray, validate_fraction, validate_scores
from bem_fleet.stats.spending import AlphaSpending, SignFlipTest

BoolArray = NDArray[np.bool_]

# Stakes as a share of the largest stake that keeps the wealth positive. The growth rate is flat
# near its optimum, so eight stakes a factor of 1.8 apart grow almost as fast as the best one.
_STAKE_GRID = 0.9 / 1.8 ** np.arange(8)
# Products of this many factors between 0.1 and 2 neither overflow nor underflow in float64; one
# logarithm per block replaces one per observation.
_PRODUCT_BLOCK = 100


class BettingTest:
    """E-process against "the mean is at most ``null``" (or at least ``null``), per stream.

    Args:
        null: Mean under the null hypothesis, strictly between ``low`` and ``high``.
        low: Smallest possible observation.
        high: Largest possible observation.
        greater: Whether the alternative is a larger mean; False tests for a smaller one.
        alpha: Probability of a false rejection over all looks together, between 0 and 1.
        streams: Number of independent tests run side by side (canaries, or simulated ones).

    Raises:
        InvalidScoresError: The bounds are in the wrong order, the null lies outside them, or alpha
            lies outside (0, 1).
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
            raise InvalidScoresError(f"null: {null} does not lie between {low} and {high}")
        self.alpha = validate_fraction(alpha, "alpha")
        self.items = 0
        self._null, self._low, self._high = null, low, high
        self._sign = 1.0 if greater else -1.0
        largest_loss = null - low if greater else high - null
        self._stakes = _STAKE_GRID / largest_loss
        self._log_wealth = np.zeros((streams, len(_STAKE_GRID)))
        self._peak = np.zeros(streams)

    def update(self, values: ArrayLike, dependence: CorrelationTime | None = None) -> None:
        """Add the next observations, [n] for one stream or [streams, n], and look.

        Args:
            values: Observations between ``low`` and ``high``.
            dependence: Correlation times of the streams; None takes each observation as new
                evidence.

        Raises:
            InvalidScoresError: Observations are NaN or outside the bounds, or the number of streams
                is wrong.
        """
        array = np.asarray(values, dtype=np.float64)
        block = validate_scores(array, "observations", ndim=2 if array.ndim == 2 else 1).reshape(
            -1, array.shape[-1]
        )
        if len(block) != len(self._peak):
            raise InvalidScoresError(f"streams: got {len(block)}; the test has {len(self._peak)}")
        if block.min() < self._low - 1e-12 or block.max() > self._high + 1e-12:
            raise InvalidScoresError(
                f"observations from {block.min():g} to {block.max():g}; "
                f"the test holds only for {self._low:g} to {self._high:g}"
            )
        gains = self._sign * (block - self._null)
        for start in range(0, gains.shape[1], _PRODUCT_BLOCK):
            chunk = gains[:, start : start + _PRODUCT_BLOCK, None]
            self._log_wealth += np.log(np.prod(1 + self._stakes * chunk, axis=1))
        self.items += block.shape[1]
        # Ville's inequality bounds the largest wealth at any look, so what was rejected stays so.
        if dependence is None:
            self._peak = np.maximum(self._peak, self.log_e)
        else:
            # Too few effective observations count as no wealth: their correlation time is a guess.
            log_e = np.where(dependence.suffices, self._mean_log_wealth(dependence.times), 0.0)
            self._peak = np.maximum(self._peak, log_e)

    @property
    def null(self) -> float:
        """Mean under the null hypothesis."""
        return self._null

    @property
    def log_e(self) -> FloatArray:
        """Logarithm of the current e-value (mean wealth over the stakes), [streams]."""
        return self._mean_log_wealth(np.ones(len(self._peak)))

    def _mean_log_wealth(self, times: FloatArray) -> FloatArray:
        """Return the log of the mean wealth, each stake's log divided by the time, [streams]."""
        adjusted = self._log_wealth / times[:, None]
        return np.asarray(np.logaddexp.reduce(adjusted, axis=1) - np.log(adjusted.shape[1]))

    @property
    def p_values(self) -> FloatArray:
        """Always-valid p-values, [streams]: 1 / largest wealth at any look, at most 1."""
        return np.asarray(np.exp(-self._peak))

    @property
    def rejected(self) -> BoolArray:
        """Whether the null hypothesis was rejected at any look, [streams]."""
        return np.asarray(self._peak >= -np.log(self.alpha))


class ConfidenceSequence:
    """Time-uniform confidence interval for the mean of one bounded stream.

    Args:
        low: Smallest possible observation.
        high: Largest possible observation.
        confidence: Probability that the interval covers the mean at all times, between 0 and 1.

    Raises:
        InvalidScoresError: The bounds are in the wrong order, or ``confidence`` lies outside
            (0, 1).
    """

    def __init__(self, *, low: float = -1.0, high: float = 1.0, confidence: float = 0.95) -> None:
        if not low < high:
            raise InvalidScoresError(f"low {low} is not below high {high}")
        self._low, self._range = low, high - low
        self._log = float(np.log(2 / (1 - validate_fraction(confidence, "confidence"))))
        self.items = 0
        self._sum = self._squares = self._stakes = self._staked = self._cost = 0.0
        self._interval = (0.0, 1.0)

    def update(self, values: ArrayLike) -> None:
        """Add the next observations, [n].

        Raises:
            InvalidScoresError: Observations are NaN or outside the bounds.
        """
        block = (validate_scores(values, "observations") - self._low) / self._range
        if block.min() < -1e-12 or block.max() > 1 + 1e-12:
            raise InvalidScoresError(
                f"observations: a value lies outside {self._low:g} to {self._low + self._range:g}"
            )
        for x in block.tolist():
            self._add(x)

    @property
    def interval(self) -> tuple[float, float]:
        """Current lower and upper bound; the bounds only tighten over time."""
        low, high = self._interval
        return self._low + self._range * low, self._low + self._range * high

    def _add(self, x: float) -> None:
        """Apply Theorem 2 of Waudby-Smith and Ramdas to one observation in [0, 1].

        Mean, variance and stake are predictable: they use earlier observations only, with one
        prior observation of 1/2 (variance 1/4).
        """
        t = self.items + 1
        mean = (0.5 + self._sum) / t
        variance = (0.25 + self._squares) / t
        # Below 1, so that no single observation can bankrupt the bet.
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


class SequentialOutcome(StrEnum):
    """Current result of a sequential test."""

    CONTINUE = "continue"
    BETTER = "better"
    WORSE = "worse"
    FUTILE = "futile"


@dataclass(frozen=True)
class SequentialTestSpec:
    """Hypotheses and error rates of a sequential test on the mean gain of one bounded stream.

    Attributes:
        bound: Largest absolute gain of one item.
        required_gain: ``better`` is reached once the mean is shown to exceed this; below 0 for
            non-inferiority.
        tolerated_loss: ``worse`` is reached once the mean is shown to lie below minus this, 0 or
            more.
        futility_margin: ``futile`` is reached once the mean is shown to lie within plus and minus
            this, so that neither a gain nor a harm is still possible; None disables it.
        alpha_better: Probability of a false ``better`` over all looks, between 0 and 1.
        alpha_worse: Probability of a false ``worse``, and of a false ``futile``, over all looks.
        spending: Alpha-spending schedule of a sign-flip test for ``worse``; None uses bets.
        independent: Whether items are separate questions in random order, so that their correlation
            time is 1 and is not estimated.
    """

    bound: float = 1.0
    required_gain: float = 0.0
    tolerated_loss: float = 0.0
    futility_margin: float | None = None
    alpha_better: float = 0.05
    alpha_worse: float = 0.05
    spending: AlphaSpending | None = None
    independent: bool = False


class SequentialTest:
    """Sequential test of gains (above 0 where the mission is better) for better, worse or futile.

    Three tests run at once: bets, except that ``worse`` may use a sign-flip test with alpha
    spending. The bets share one estimate of the correlation time. ``worse`` takes precedence over
    ``better``: a small loss within the non-inferiority margin can reach both.

    Args:
        spec: Hypotheses and error rates.
        streams: Number of tests run side by side.

    Raises:
        InvalidScoresError: ``tolerated_loss`` is below 0, or a margin lies outside the bound.
    """

    def __init__(self, spec: SequentialTestSpec, streams: int = 1) -> None:
        bound = spec.bound
        if spec.tolerated_loss < 0:
            raise InvalidScoresError(f"tolerated_loss: {spec.tolerated_loss}; it must be 0 or more")

        def test(null: float, alpha: float, *, greater: bool) -> BettingTest:
            return BettingTest(
                null=null, low=-bound, high=bound, greater=greater, alpha=alpha, streams=streams
            )

        self.better = test(spec.required_gain, spec.alpha_better, greater=True)
        self.worse: BettingTest | SignFlipTest = (
            test(-spec.tolerated_loss, spec.alpha_worse, greater=False)
            if spec.spending is None
            else SignFlipTest(
                tolerated_loss=spec.tolerated_loss,
                alpha=spec.alpha_worse,
                spending=spec.spending,
                streams=streams,
            )
        )
        # Two one-sided tests of equivalence (Schuirmann, 1987): a harm must not count as "no gain".
        self._within = (
            ()
            if spec.futility_margin is None
            else (
                test(spec.futility_margin, spec.alpha_worse, greater=False),
                test(-spec.futility_margin, spec.alpha_worse, greater=True),
            )
        )
        self.dependence = CorrelationTime(streams, independent=spec.independent)
        self._tolerated_loss = spec.tolerated_loss
        self._total = np.zeros(streams)

    def update(self, gains: ArrayLike) -> None:
        """Add the next gains, [n] for one stream or [streams, n], and look.

        Args:
            gains: Gains; NaN is a pair that is no evidence, neither of a gain nor of equality.

        Raises:
            InvalidScoresError: The conditions of ``BettingTest.update`` are not met.
        """
        block = np.asarray(gains, dtype=np.float64)
        block = block.reshape(-1, block.shape[-1])
        if len(block) != len(self._total):
            raise InvalidScoresError(f"streams: got {len(block)}; the test has {len(self._total)}")
        missing = np.isnan(block)
        self.dependence.update(block)
        bets = [self.better, *self._within]
        if isinstance(self.worse, SignFlipTest):
            # On the border of its null hypothesis a gain has no sign that could be flipped.
            self.worse.update(np.where(missing, -self._tolerated_loss, block))
        else:
            bets.append(self.worse)
        for test in bets:
            # At the null itself nothing is won or lost.
            test.update(np.where(missing, test.null, block), self.dependence)
        self._total += np.where(missing, 0.0, block).sum(axis=1)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of gains that are evidence, [streams]."""
        return self.dependence.counts.copy()

    @property
    def futile(self) -> BoolArray:
        """Whether the mean is shown to lie within the futility margin, [streams]."""
        if not self._within:
            return np.zeros(len(self._total), dtype=bool)
        above, below = self._within
        return above.rejected & below.rejected

    @property
    def means(self) -> FloatArray:
        """Mean gain so far, [streams]; NaN before the first observation."""
        counts = self.dependence.counts
        return np.where(counts > 0, self._total / np.maximum(1, counts), np.nan)

    @property
    def outcomes(self) -> list[SequentialOutcome]:
        """Outcome of each stream, [streams]."""
        better, worse, futile = self.better.rejected, self.worse.rejected, self.futile
        return [
            SequentialOutcome.WORSE
            if w
            else SequentialOutcome.BETTER
            if b
            else SequentialOutcome.FUTILE
            if f
            else SequentialOutcome.CONTINUE
            for w, b, f in zip(worse, better, futile, strict=True)
        ]
