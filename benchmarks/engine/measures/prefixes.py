"""Time to the first token with and without a shared prefix.

512 shared tokens and 16 of each request's own, one request at a time.
"""

from typing import Any

from benchmarks.engine.measurement import Measurement, Target, median
from benchmarks.engine.timed_engine import TimedEngine, random_ids, running_engine

TARGETS = {
    "cold TTFT / hit, 512 shared": Target(5.0),
    "cold TTFT / hit, an adapter": Target(5.0),
    "cold TTFT / hit, an adapter that begins after": Target(5.0),
}
SHARED, OWN, ROUNDS = 512, 16, 7


def run(rounds: int) -> Measurement:
    """Measure prefixes that are new each time, then one shared prefix; ``rounds`` is ignored."""
    del rounds
    with running_engine(max_sequences=4) as engine:
        _ttft_s(engine, 0, 0)  # warm-up
        cold = median([_ttft_s(engine, 1000 + n, n) for n in range(ROUNDS)])
        _ttft_s(engine, 1, 0)
        before = engine.engine.counters.reused_tokens
        hit = median([_ttft_s(engine, 1, n) for n in range(ROUNDS)])
        reused = engine.engine.counters.reused_tokens - before
        # The upper half of an adapter depends on the whole prompt: only its lower half is shared.
        adapter = median([_ttft_s(engine, 1, n, adapter="s0") for n in range(ROUNDS)])
        late = median(
            [_ttft_s(engine, 1, 50 + n, adapter="s0", adapter_start=SHARED) for n in range(ROUNDS)]
        )
    return Measurement(
        {
            "shared_tokens": SHARED,
            "cold_ttft_s": cold,
            "hit_ttft_s": hit,
            "adapter_hit_ttft_s": adapter,
            "late_hit_ttft_s": late,
            "hit_ratio": reused / (ROUNDS * (SHARED + OWN)),
        },
        {
            "cold TTFT / hit, 512 shared": round(cold / hit, 3),
            "cold TTFT / hit, an adapter": round(cold / adapter, 3),
            "cold TTFT / hit, an adapter that begins after": round(cold / late, 3),
        },
    )


def _ttft_s(engine: TimedEngine, prefix: int, own: int, **fields: Any) -> float:
    ids = random_ids(SHARED, prefix) + random_ids(OWN, 50_000 + own)
    return engine.submit(ids, 1, **fields).wait().ttft_s
