"""Detection delays of a canary analysis: after how many pairs which canary ends, and how.

The delays are simulated with the gate itself under the terms given, because they depend on all of
them at once. The traffic is what the Gate Bench takes as usual (``benchmarks/gates/traces.py``):
mirrored requests whose work varies by a log-deviation of 0.4 between requests and whose latency
varies by 0.2 on each track besides; stable answers each request. Noisier or unpaired traffic, and
one whose pairs repeat each other, takes longer.

Example, under the default terms: a canary of which each twelfth request fails ends as ``rollback``
after about 90 pairs, one that equals stable as ``promote`` after about 1,000.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from bem_fleet.stats.canary_gate import CanaryGate, CanaryVerdict
from bem_fleet.stats.canary_terms import AnalysisTerms, gate_specs
from bem_fleet.stats.samples import FloatArray

WORK_SPREAD, NOISE_SPREAD = 0.4, 0.2
"""Log-deviations of the work of a request and of the latency of one track."""
_BLOCK = 100


@dataclass(frozen=True)
class CanaryBehaviour:
    """What a simulated canary does differently from stable.

    Attributes:
        name: Name in the table.
        errors: Share of its requests that fail, 0 to 1.
        withheld: Share of its answers that are withheld, 0 to 1.
        slower: Factor on all latencies, above 0.
        stalled: Share of its requests that take ``stall`` times as long, 0 to 1.
        stall: Factor on the latencies of these.
    """

    name: str
    errors: float = 0.0
    withheld: float = 0.0
    slower: float = 1.0
    stalled: float = 0.0
    stall: float = 100.0


BEHAVIOURS = (
    CanaryBehaviour("equals stable"),
    CanaryBehaviour("all requests fail or are empty", errors=1.0),
    CanaryBehaviour("8 % of requests fail", errors=0.08),
    CanaryBehaviour("3 % of requests fail", errors=0.03),
    CanaryBehaviour("10 % of answers are withheld", withheld=0.1),
    CanaryBehaviour("20 % slower", slower=1.2),
    CanaryBehaviour("twice as slow", slower=2.0),
    CanaryBehaviour("every tenth request 100 times slower", stalled=0.1),
)


@dataclass(frozen=True)
class DetectionDelay:
    """Delay until the analysis of one behaviour ends.

    Attributes:
        behaviour: Name of the behaviour.
        verdict: Most frequent verdict of the simulated canaries.
        share: Share of the canaries that end so, 0 to 1.
        median: Median number of pairs until then.
        late: Number of pairs within which nine tenths of them end.
    """

    behaviour: str
    verdict: CanaryVerdict
    share: float
    median: int
    late: int


def detection_delays(
    terms: AnalysisTerms, *, canaries: int = 20, horizon: int = 5_000, seed: int = 0
) -> list[DetectionDelay]:
    """Return the delay of each behaviour.

    Args:
        terms: Terms of the analysis.
        canaries: Number of canaries simulated for each behaviour, at least 1.
        horizon: Number of pairs after which the simulation stops, if ``max_pairs`` is not less.
        seed: Seed of the simulation.
    """
    return [
        _delay(behaviour, terms, canaries, min(horizon, terms.max_pairs), seed)
        for behaviour in BEHAVIOURS
    ]


def _delay(
    behaviour: CanaryBehaviour, terms: AnalysisTerms, canaries: int, horizon: int, seed: int
) -> DetectionDelay:
    spec, _ = gate_specs(terms, with_quality=False)
    gate, rng = CanaryGate(spec, canaries), np.random.default_rng(seed)
    for _ in range(math.ceil(horizon / _BLOCK)):
        if CanaryVerdict.CONTINUE not in gate.verdicts:
            break
        gate.observe(*_observations(behaviour, rng, (canaries, _BLOCK)))
    verdict, count = Counter(gate.verdicts).most_common(1)[0]
    ended = [
        int(at) if one is not CanaryVerdict.CONTINUE else gate.items
        for one, at in zip(gate.verdicts, gate.decided_at, strict=True)
        if one is verdict
    ]
    median, late = np.quantile(ended, [0.5, 0.9], method="higher")
    return DetectionDelay(behaviour.name, verdict, count / canaries, int(median), int(late))


def _observations(
    behaviour: CanaryBehaviour, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[dict[str, FloatArray], ...]:
    """Return the arguments of ``CanaryGate.observe`` for the next pairs of all canaries."""
    work = rng.lognormal(0, WORK_SPREAD, size)
    stalls = np.where(rng.random(size) < behaviour.stalled, behaviour.stall, 1.0)
    failed = (rng.random(size) < behaviour.errors).astype(np.float64)
    withheld = (rng.random(size) < behaviour.withheld) * (1 - failed)
    unanswered = failed + withheld
    canary = {
        "errors": failed,
        "violations": withheld,
        "latency": behaviour.slower * stalls * work * rng.lognormal(0, NOISE_SPREAD, size),
        "answered": 1 - unanswered,
    }
    nothing = np.zeros(size)
    stable = {
        "errors": nothing,
        "violations": nothing,
        "latency": work * rng.lognormal(0, NOISE_SPREAD, size),
    }
    events = {"errors": failed, "violations": withheld}
    latencies = ("latency", "latency p95", "latency p99")
    return canary, stable, events, dict.fromkeys(latencies, unanswered)
