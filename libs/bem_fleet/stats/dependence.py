"""Autocorrelation time of streams: how many pairs in a row carry the information of one.

Latencies and failures come in spells (load, a busy node, a pod that restarts), so neighbouring
pairs repeat each other and a bet that counts each of them is overconfident. With the correlation
time T, n pairs are worth n / T independent ones, and ``sequential.SequentialTest`` divides the
logarithm of its wealth by T. For pairs that agree within blocks of T this is what a bet on the
blocks' means would win at most, because log(1 + l x) is concave:

    product over the block of (1 + l x_i)^(1/T)  <=  1 + l (mean of the block)

Dividing a log-likelihood by its variance inflation is the magnitude adjustment of composite
likelihoods (Ribatet, Cooley and Davison, "Bayesian inference from composite likelihoods, with an
application to spatial extremes", Statistica Sinica 22, 2012). T is estimated by the initial
monotone sequence of Geyer ("Practical Markov chain Monte Carlo", Statistical Science 7, 1992), and
one standard error of it (Sokal, "Monte Carlo methods in statistical mechanics", 1997) is added.

The autocovariances are those within windows of 500 pairs, up to a lag of 128: a step, such as a
canary that becomes slower at its thousandth pair, must not look like a long correlation for ever.
Spells are covered up to a correlation time of about 200 pairs (an autoregressive stream with
coefficient 0.99, ``results/canary_dependence.md``); a spell that lasts for thousands of pairs
cannot be told from a change.

Example: an autoregressive stream with coefficient 0.9 has T = (1 + 0.9) / (1 - 0.9) = 19, so 1,000
of its pairs are worth 53.
"""

import numpy as np
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray

WINDOW = 500
"""Pairs of which the autocovariances are centred at one mean."""
LAGS = 128
"""Longest lag of the autocovariances, in pairs."""
MIN_EFFECTIVE = 10
"""Fewest effective pairs from which anything is concluded."""
# The time is estimated anew at every look up to this many pairs, later once in so many pairs.
_EARLY, _INTERVAL = 200, 40
# A stream whose variance is rounding noise is constant: it says nothing about its dependence.
_SMALLEST_VARIANCE = 1e-18
_TRANSFORM = 1 << (WINDOW + LAGS).bit_length()


class CorrelationTime:
    """Running estimate of the autocorrelation time, per stream.

    Args:
        streams: Number of streams side by side.
        independent: Whether observations are separate items in random order, such as probes, whose
            correlation time is 1 by design; an estimate from few of them would be noise.
    """

    def __init__(self, streams: int = 1, *, independent: bool = False) -> None:
        self.items = 0
        self._independent = independent
        self.counts = np.zeros(streams, dtype=np.int64)
        """Number of observations without the missing ones, [streams]."""
        self.times = np.ones(streams)
        """Correlation time in pairs, [streams]; 1 where the stream does not vary."""
        self._window = np.full((streams, WINDOW), np.nan)
        # Sums over the complete windows of products at each lag, and of their numbers.
        self._products = np.zeros((streams, LAGS + 1))
        self._numbers = np.zeros((streams, LAGS + 1))
        self._due = 0

    def update(self, values: FloatArray) -> None:
        """Add the next observations, [streams, n]; NaN is a missing one."""
        done, n = 0, values.shape[1]
        self.counts += np.isfinite(values).sum(axis=1)
        while done < n:
            start = self.items % WINDOW
            size = min(n - done, WINDOW - start)
            self._window[:, start : start + size] = values[:, done : done + size]
            done += size
            self.items += size
            complete = self.items % WINDOW == 0
            if self._independent:
                continue
            if complete or (done == n and self.items >= self._due):
                self._estimate(complete=complete)
                self._due = self.items + (0 if self.items < _EARLY else _INTERVAL)

    @property
    def effective(self) -> FloatArray:
        """Effective number of observations, [streams]."""
        return np.asarray(self.counts / self.times)

    @property
    def suffices(self) -> NDArray[np.bool_]:
        """Whether there are enough effective observations for a conclusion, [streams]."""
        return np.asarray(self.effective >= MIN_EFFECTIVE)

    def _estimate(self, *, complete: bool) -> None:
        filled = WINDOW if complete else self.items % WINDOW
        products, numbers = _lagged_products(self._window[:, :filled])
        products, numbers = products + self._products, numbers + self._numbers
        if complete:
            self._products, self._numbers = products, numbers
        self.times = _initial_monotone_time(products, numbers, self.counts)


def _lagged_products(window: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return sums of x_i x_(i+k) about the window's mean and their numbers, [streams, lags]."""
    present = np.isfinite(window)
    counts = np.maximum(1, present.sum(axis=1, keepdims=True))
    filled = np.where(present, window, 0.0)
    centred = np.where(present, filled - filled.sum(axis=1, keepdims=True) / counts, 0.0)
    return _autocorrelate(centred), np.rint(_autocorrelate(present.astype(np.float64)))


def _autocorrelate(values: FloatArray) -> FloatArray:
    spectrum = np.fft.rfft(values, n=_TRANSFORM, axis=1)
    sums = np.fft.irfft(spectrum * np.conj(spectrum), n=_TRANSFORM, axis=1)
    return np.asarray(sums[:, : LAGS + 1])


def _initial_monotone_time(
    products: FloatArray, numbers: FloatArray, counts: NDArray[np.int64]
) -> FloatArray:
    """Return Geyer's estimate plus one standard error, [streams], at least 1."""
    covariances = products / np.maximum(1, numbers)
    variances = covariances[:, 0]
    varies = variances > _SMALLEST_VARIANCE
    correlations = covariances / np.where(varies, variances, 1.0)[:, None]
    pairs = correlations[:, : 2 * (LAGS // 2)].reshape(len(products), -1, 2).sum(axis=2)
    # Sums of two neighbouring lags are positive and fall for any reversible process: what follows
    # the first that is not is noise.
    initial = np.cumprod(pairs > 0, axis=1)
    falling = np.minimum.accumulate(np.where(initial > 0, pairs, 0.0), axis=1)
    times = np.maximum(1.0, 2 * falling.sum(axis=1) - 1)
    cut = 2 * initial.sum(axis=1)
    error = np.sqrt(2 * (2 * cut + 1) / np.maximum(1, counts))
    return np.asarray(np.where(varies, times * (1 + error), 1.0))
