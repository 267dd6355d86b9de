"""Bootstrap canary gates: naive percentile intervals, and BCa with Benjamini-Hochberg.

The resamples are carried from look to look by Poisson(1) weights, one set for all seeds
(Chamandy et al., "Estimating uncertainty for massive data streams", 2012): every interval is of
the same kind as a fresh bootstrap's, at the cost of one matrix product a look.
"""

from collections.abc import Callable

import numpy as np
from bem_fleet.stats.effects import required_items
from bem_fleet.stats.samples import FloatArray
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmarks.gates.canary_gates import MARGINS
from benchmarks.gates.decisions import (
    INCONCLUSIVE,
    PROMOTED,
    ROLLED_BACK,
    DecisionLedger,
    GateDecisions,
)
from benchmarks.gates.traces import FLIP, LOOK, METRICS, Traces

RESAMPLES = 1_000
ALPHA = 0.05
# Number of pairs that detects +1.5 % with power 0.8, known before the canary starts.
PLANNED_PAIRS = required_items(0.015, float(np.sqrt(2 * FLIP)), alternative="two-sided")

Judge = Callable[[FloatArray, FloatArray, float], tuple[NDArray[np.bool_], ...]]


class _RunningReplicates:
    """Bootstrap replicates of the mean gain of one metric over the pairs so far."""

    def __init__(self, gains: FloatArray) -> None:
        self._gains = gains.astype(np.float32)
        self._sums = np.zeros((len(gains), RESAMPLES), dtype=np.float32)
        self._weights = np.zeros(RESAMPLES, dtype=np.float32)
        self._moments = np.zeros((3, len(gains)))

    def take(self, look: int, weights: NDArray[np.float32], rows: NDArray[np.bool_]) -> None:
        """Add the pairs of a look for the undecided canaries ``rows``."""
        block = self._gains[rows, look * LOOK : (look + 1) * LOOK]
        self._sums[rows] += block @ weights
        self._weights += weights.sum(axis=0)
        for power in range(3):
            self._moments[power, rows] += (block.astype(np.float64) ** (power + 1)).sum(axis=1)

    def sorted(self, rows: NDArray[np.bool_]) -> FloatArray:
        """Return the replicates, sorted, [rows, RESAMPLES]."""
        return np.sort((self._sums[rows] / self._weights).astype(np.float64), axis=1)

    def mean_and_acceleration(
        self, rows: NDArray[np.bool_], items: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return the means and BCa's a, each [rows]; a is NaN where nothing varies."""
        first, second, third = self._moments[:, rows] / items
        variance = second - first**2
        skew = third - 3 * first * second + 2 * first**3
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.where(variance > 1e-12, skew / variance**1.5 / (6 * np.sqrt(items)), np.nan)
        return first, a


def percentile_gate(traces: Traces) -> GateDecisions:
    """Look at 95 % percentile intervals after every block, each metric by itself.

    One interval below 0 rolls back; quality above 0 with the guards' intervals inside their
    margins promotes.
    """

    def judge(replicates: FloatArray, _: FloatArray, margin: float) -> tuple[FloatArray, ...]:
        low, high = np.quantile(replicates, [ALPHA / 2, 1 - ALPHA / 2], axis=1)
        return low, high, low > -margin

    def decide(found: dict[str, tuple[FloatArray, ...]]) -> tuple[FloatArray, FloatArray]:
        worse = np.any([high < 0 for _, high, _ in found.values()], axis=0)
        within = np.all([safe for _, _, safe in found.values()], axis=0)
        return worse, within & (found["quality"][0] > 0)

    return _run_gate(traces, judge, decide, first=0)


def bca_gate(traces: Traces) -> GateDecisions:
    """Look once, at the planned number of pairs: BCa, Benjamini-Hochberg over the metrics."""
    return _run_gate(
        traces,
        _bca_p_values,
        _benjamini_hochberg,
        first=PLANNED_PAIRS // LOOK,
        last=PLANNED_PAIRS // LOOK,
    )


def bca_gate_peeked(traces: Traces) -> GateDecisions:
    """Make the same decision after every block, as a watched canary would."""
    return _run_gate(traces, _bca_p_values, _benjamini_hochberg, first=0)


def _bca_p_values(
    replicates: FloatArray, estimate: FloatArray, margin: float
) -> tuple[FloatArray, ...]:
    """Return p of "no gain" and of "no loss" by inversion, and whether the margin holds."""
    mean, a = estimate
    size = replicates.shape[1]

    def z_of(value: FloatArray) -> FloatArray:
        tie = 1e-7
        below = (replicates < value[:, None] - tie).sum(axis=1)
        equal = (np.abs(replicates - value[:, None]) <= tie).sum(axis=1)
        share = np.clip((below + equal / 2) / size, 1 / (size + 1), size / (size + 1))
        return np.asarray(ndtri(share))

    bias = z_of(mean)

    def level(value: float) -> FloatArray:
        shift = z_of(np.full(len(mean), value)) - bias
        return np.asarray(ndtr(shift / np.maximum(1 + a * shift, 1e-6) - bias))

    at_zero = np.where(np.isnan(a), 0.5, level(0.0))
    # A degenerate interval shows nothing, its margin included.
    safe = np.where(np.isnan(a), False, level(-margin) < ALPHA / 2)
    return at_zero, 1 - at_zero, safe


def _benjamini_hochberg(
    found: dict[str, tuple[FloatArray, ...]],
) -> tuple[FloatArray, FloatArray]:
    names = list(found)
    two_sided = np.stack([2 * np.minimum(*found[name][:2]) for name in names])
    order = np.sort(two_sided, axis=0)
    ranks = np.arange(1, len(names) + 1)[:, None]
    passing = order <= ALPHA * ranks / len(names)
    cut = np.where(passing, order, -1.0).max(axis=0)
    rejected = two_sided <= cut
    loss = np.stack([found[name][1] < found[name][0] for name in names])
    worse = (rejected & loss).any(axis=0)
    within = np.all([found[name][2] for name in names if name != "quality"], axis=0)
    quality = names.index("quality")
    return worse, within & rejected[quality] & ~loss[quality]


def _run_gate(
    traces: Traces,
    judge: Callable[[FloatArray, FloatArray, float], tuple[FloatArray, ...]],
    decide: Callable[[dict[str, tuple[FloatArray, ...]]], tuple[FloatArray, FloatArray]],
    *,
    first: int,
    last: int | None = None,
) -> GateDecisions:
    seeds, horizon = traces.canary["quality"].shape
    ledger = DecisionLedger(seeds, horizon)
    running = {name: _RunningReplicates(traces.gains(name)) for name in METRICS}
    rng = np.random.default_rng(11)
    final = horizon // LOOK - 1 if last is None else last
    for look in range(final + 1):
        rows = ledger.open
        if not rows.any():
            break
        weights = rng.poisson(1, size=(LOOK, RESAMPLES)).astype(np.float32)
        for state in running.values():
            state.take(look, weights, rows)
        if look < first:
            continue
        found = {
            name: judge(
                state.sorted(rows),
                np.stack(state.mean_and_acceleration(rows, (look + 1) * LOOK)),
                MARGINS[name],
            )
            for name, state in running.items()
        }
        worse, better = (np.zeros(seeds, dtype=bool) for _ in range(2))
        worse[rows], better[rows] = decide(found)
        ledger.decide(worse, ROLLED_BACK, look)
        ledger.decide(better, PROMOTED, look)
    ledger.decide(ledger.open, INCONCLUSIVE, final)
    return ledger.outcomes()
