"""Threshold canary gates: window averages against constants, as Argo Rollouts and Flagger do.

Traffic is taken to be one look (100 requests of the canary) a minute. The limits are service
levels as an operator would write them from stable's long record: exact match at least 95 % of its
level, p95 latency at most 110 % of its level, violations at most 1 %, and for errors the
number that the project's own documentation shows.
"""

import numpy as np
from bem_fleet.stats.samples import FloatArray
from numpy.typing import NDArray

from benchmarks.gates.decisions import PROMOTED, ROLLED_BACK, DecisionLedger, GateDecisions
from benchmarks.gates.traces import LOOK, Traces


def _healthy(traces: Traces, minutes: int, success: float) -> dict[str, NDArray[np.bool_]]:
    """Return by metric whether each window of ``minutes`` meets its limit, [seeds, windows]."""

    def windows(name: str) -> FloatArray:
        values = traces.canary[name]
        return values.reshape(len(values), -1, LOOK * minutes)

    quality, slow = traces.usual
    return {
        "quality": windows("quality").mean(axis=2) >= 0.95 * quality,
        "latency": np.quantile(windows("latency"), 0.95, axis=2) <= 1.10 * slow,
        "violation": windows("violation").mean(axis=2) <= 0.01,
        "error": 1 - windows("error").mean(axis=2) >= success,
    }


def argo_gate(traces: Traces) -> GateDecisions:
    """Return the decisions of the AnalysisTemplate in Argo's documentation.

    ``interval: 5m``, ``successCondition: result[0] >= 0.95`` and ``failureLimit: 3``: more than
    three failed measurements of one metric abort. The documented rollout (20 % more every 10
    minutes) is over after 50 minutes, ten measurements; then the canary is promoted.
    """
    minutes, measurements, limit = 5, 10, 3
    ledger = DecisionLedger(len(traces.canary["quality"]), traces.canary["quality"].shape[1])
    failures = [
        np.cumsum(~fine, axis=1) for fine in _healthy(traces, minutes, success=0.95).values()
    ]
    for k in range(measurements):
        look = (k + 1) * minutes - 1
        failed = np.any([count[:, k] > limit for count in failures], axis=0)
        ledger.decide(failed, ROLLED_BACK, look)
    ledger.decide(ledger.open, PROMOTED, measurements * minutes - 1)
    return ledger.outcomes()


def flagger_gate(traces: Traces) -> GateDecisions:
    """Return the decisions of the canary in Flagger's documentation.

    ``interval: 1m``, ``threshold: 10`` failed checks roll back, ``thresholdRange`` with at least
    99 % success; ``stepWeight: 5`` up to ``maxWeight: 50``: ten passed checks promote, and a
    failed check stays at its weight.
    """
    steps, threshold = 10, 10
    ledger = DecisionLedger(len(traces.canary["quality"]), traces.canary["quality"].shape[1])
    passed = np.all(list(_healthy(traces, 1, success=0.99).values()), axis=0)
    for look in range(passed.shape[1]):
        ledger.decide((~passed[:, : look + 1]).sum(axis=1) >= threshold, ROLLED_BACK, look)
        ledger.decide(passed[:, : look + 1].sum(axis=1) >= steps, PROMOTED, look)
    return ledger.outcomes()
