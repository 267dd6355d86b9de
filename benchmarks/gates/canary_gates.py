"""Canary gates of this project: ``bem_fleet.stats.canary_gate`` as the orchestrator uses it."""

import math
from dataclasses import replace

import numpy as np
from bem_fleet.stats.canary_gate import CanaryGate, CanaryGateSpec, CanaryVerdict
from bem_fleet.stats.canary_metrics import CanaryMetric
from bem_fleet.stats.effects import required_items
from bem_fleet.stats.spending import AlphaSpending
from bem_fleet.stats.tripwires import Tripwire

from benchmarks.gates.decisions import INCONCLUSIVE, PROMOTED, ROLLED_BACK, UNDECIDED, GateDecisions
from benchmarks.gates.traces import HORIZON, LOOK, METRICS, QUALITY, Traces

# Non-inferiority margin of each metric on the scale of its gains, shared by gates with margins.
MARGINS = {
    "quality": 0.0,
    "latency": math.log(1.10),
    "latency p95": 0.02,
    "violation": 0.003,
    "error": 0.005,
}
PAIRED_SPEC = CanaryGateSpec(
    metrics=(
        CanaryMetric("quality", futility_margin=0.015),
        CanaryMetric(
            "latency",
            better="lower",
            scale="log_ratio",
            required_gain=-MARGINS["latency"],
            tolerated_loss=math.log(1.05),
        ),
        CanaryMetric(
            "latency p95",
            better="lower",
            scale="tail",
            source="latency",
            ratio=1.25,
            required_gain=-MARGINS["latency p95"],
            tolerated_loss=MARGINS["latency p95"],
        ),
        CanaryMetric("violation", better="lower", required_gain=-MARGINS["violation"]),
        CanaryMetric("error", better="lower", required_gain=-MARGINS["error"]),
    ),
    tripwires=(
        Tripwire("error", events=10, window=50, metric="error"),
        Tripwire("violation", events=5, window=100, metric="violation"),
    ),
    alpha=0.05,
    max_items=HORIZON,
    look=LOOK,
)
# On a split the noise is that of two requests. Half of alpha is spent by the pairs that show a loss
# of 5 points of quality, three quarters of it on quality (rare harms have tripwires besides). With
# fewer replicates a weight of 1 in 13 is too few paths, and how many is a matter of rounding.
_SPLIT_SPENDING = AlphaSpending(
    horizon=HORIZON,
    half_spent_at=required_items(
        0.05, math.sqrt(2 * QUALITY * (1 - QUALITY)), alternative="greater"
    ),
    replicates=6_000,
    block=50,  # half a look; the traces' correlation time is 19 pairs at most
)
_SPLIT_WEIGHTS = {"quality": 9.0}
SPLIT_SPEC = replace(
    PAIRED_SPEC,
    metrics=tuple(
        replace(
            metric,
            weight=_SPLIT_WEIGHTS.get(metric.name, 1.0),
            spending=_SPLIT_SPENDING if metric.name in ("quality", "latency") else None,
        )
        for metric in PAIRED_SPEC.metrics
    ),
)
_DECISION_CODES = {
    CanaryVerdict.CONTINUE: UNDECIDED,
    CanaryVerdict.PROMOTE: PROMOTED,
    CanaryVerdict.ROLLBACK: ROLLED_BACK,
    CanaryVerdict.INCONCLUSIVE: INCONCLUSIVE,
}


def canary_gate(traces: Traces, spec: CanaryGateSpec = PAIRED_SPEC) -> GateDecisions:
    """Look after every block; pairs are the same request on both sides."""
    seeds, horizon = traces.canary["quality"].shape
    gate = CanaryGate(spec, seeds)
    for start in range(0, horizon, LOOK):
        part = slice(start, start + LOOK)
        canary = {name: traces.canary[name][:, part] for name in METRICS}
        stable = {name: traces.stable[name][:, part] for name in METRICS}
        events = {name: canary[name] > 0 for name in ("error", "violation")}
        gate.observe(canary, stable, events)
        if CanaryVerdict.CONTINUE not in gate.verdicts:
            break
    verdicts = np.array([_DECISION_CODES[verdict] for verdict in gate.verdicts])
    return GateDecisions(verdicts, np.where(verdicts == UNDECIDED, horizon, gate.decided_at))


def canary_gate_split(traces: Traces) -> GateDecisions:
    """Look after every block; a plain traffic split, paired in order of arrival."""
    return canary_gate(traces.unpaired(), SPLIT_SPEC)


def canary_gate_split_bets(traces: Traces) -> GateDecisions:
    """Do the same with the gate that was made for pairs: bets on all metrics, weighted alike."""
    return canary_gate(traces.unpaired())


def canary_gate_strict(traces: Traces) -> GateDecisions:
    """Promote at 1 % instead of 5 %, for a fleet in which few canaries are good."""
    return canary_gate(traces, replace(PAIRED_SPEC, alpha_promotion=0.01))
