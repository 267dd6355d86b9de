"""Ours: ``bem_fleet.stats.gate`` as the canary of the orchestrator uses it."""

import math
from dataclasses import replace

import numpy as np
from bem_fleet.stats.effects import needed_items
from bem_fleet.stats.gate import GateSpec, Metric, SequentialGate, Verdict
from bem_fleet.stats.spending import Spending
from bem_fleet.stats.tripwires import Tripwire

from benchmarks.gates.outcome import HELD, OPEN, PROMOTED, ROLLED_BACK, Outcomes
from benchmarks.gates.traces import HORIZON, LOOK, METRICS, QUALITY, Traces

# What a guard may lose at most, on the scale of its gains; shared by the gates with margins.
MARGINS = {"quality": 0.0, "latency": math.log(1.10), "violation": 0.003, "error": 0.005}
SPEC = GateSpec(
    metrics=(
        Metric("quality", worthwhile=0.015),
        Metric(
            "latency",
            better="lower",
            scale="log_ratio",
            required=-MARGINS["latency"],
            tolerated=math.log(1.05),
        ),
        Metric("violation", better="lower", required=-MARGINS["violation"]),
        Metric("error", better="lower", required=-MARGINS["error"]),
    ),
    tripwires=(
        Tripwire("error", events=10, window=50, metric="error"),
        Tripwire("violation", events=5, window=100, metric="violation"),
    ),
    alpha=0.05,
    max_items=HORIZON,
)
# On a split the noise is that of two requests. Half of alpha is spent by the pairs that show a loss
# of 5 points of quality, three quarters of it on quality (rare harms have tripwires besides). With
# fewer replicates a weight of 1 in 13 is too few paths, and how many is a matter of rounding.
_SPENDING = Spending(
    horizon=HORIZON,
    half=needed_items(0.05, math.sqrt(2 * QUALITY * (1 - QUALITY)), alternative="greater"),
    replicates=6_000,
)
_WEIGHTS = {"quality": 9.0}
SPLIT = replace(
    SPEC,
    metrics=tuple(
        replace(
            metric,
            weight=_WEIGHTS.get(metric.name, 1.0),
            spending=_SPENDING if metric.name in ("quality", "latency") else None,
        )
        for metric in SPEC.metrics
    ),
)
_CODES = {
    Verdict.CONTINUE: OPEN,
    Verdict.PROMOTE: PROMOTED,
    Verdict.ROLLBACK: ROLLED_BACK,
    Verdict.INCONCLUSIVE: HELD,
}


def ours(traces: Traces, spec: GateSpec = SPEC) -> Outcomes:
    """Look after every block; pairs are the same request on both sides."""
    seeds, horizon = traces.canary["quality"].shape
    gate = SequentialGate(spec, seeds)
    for start in range(0, horizon, LOOK):
        part = slice(start, start + LOOK)
        canary = {name: traces.canary[name][:, part] for name in METRICS}
        stable = {name: traces.stable[name][:, part] for name in METRICS}
        events = {name: canary[name] > 0 for name in ("error", "violation")}
        gate.observe(canary, stable, events)
        if Verdict.CONTINUE not in gate.verdicts:
            break
    verdicts = np.array([_CODES[verdict] for verdict in gate.verdicts])
    return Outcomes(verdicts, np.where(verdicts == OPEN, horizon, gate.decided_at))


def ours_unpaired(traces: Traces) -> Outcomes:
    """Look after every block; a plain traffic split, paired in order of arrival."""
    return ours(traces.unpaired(), SPLIT)


def ours_unpaired_bets(traces: Traces) -> Outcomes:
    """Do the same with the gate that was made for pairs: bets on all metrics, weighted alike."""
    return ours(traces.unpaired())


def ours_strict(traces: Traces) -> Outcomes:
    """Promote at 1 % instead of 5 %, for a fleet in which few canaries are good."""
    return ours(traces, replace(SPEC, alpha_promotion=0.01))
