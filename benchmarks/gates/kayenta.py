"""Kayenta-style canary gate: Mann-Whitney tests between time series of canary and control."""

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.gates.decisions import PROMOTED, ROLLED_BACK, DecisionLedger, GateDecisions
from benchmarks.gates.traces import LOOK, METRICS, Traces

CONFIDENCE = 0.98
# With fewer points no rank test reaches 2 %; Kayenta's guide asks for 50, so this favours it.
MIN_POINTS = 5


def kayenta_gate(traces: Traces) -> GateDecisions:
    """Return the decisions of a Kayenta judge with every metric critical.

    One point a minute (100 requests) and arm, as it reads them from a time-series database; at
    each look the whole series so far, two-sided at 98 %. A metric that is significantly worse
    fails the canary at once; one that is not by the end of its lifetime is promoted. The
    tolerance band that the effect-size options add is left out: it only delays failures.
    """
    seeds, horizon = traces.canary["quality"].shape
    ledger = DecisionLedger(seeds, horizon)
    points = {
        name: (
            traces.canary[name].reshape(seeds, -1, LOOK).mean(axis=2),
            traces.stable[name].reshape(seeds, -1, LOOK).mean(axis=2),
        )
        for name in METRICS
    }
    looks = horizon // LOOK
    for look in range(MIN_POINTS - 1, looks):
        rows = ledger.open
        if not rows.any():
            break
        worse = np.zeros(seeds, dtype=bool)
        for name, (canary, stable) in points.items():
            left, right = canary[rows, : look + 1], stable[rows, : look + 1]
            tested = mannwhitneyu(left, right, axis=1, method="asymptotic")
            middle = (look + 1) ** 2 / 2
            bad = tested.statistic < middle if name == "quality" else tested.statistic > middle
            # All ties give NaN, which is never below the level.
            worse[rows] |= bad & (tested.pvalue < 1 - CONFIDENCE)
        ledger.decide(worse, ROLLED_BACK, look)
    ledger.decide(ledger.open, PROMOTED, looks - 1)
    return ledger.outcomes()


def kayenta_gate_split(traces: Traces) -> GateDecisions:
    """Return the decisions on a plain traffic split, where the arms serve different requests."""
    return kayenta_gate(traces.unpaired())
