"""Time to the first token with and without a shared prefix: ``python -m benchmarks.engine.prefix``.

512 shared tokens and 16 of each request's own, one request at a time.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.engine.serving import Engine, engine, median, random_ids, show

SHARED, OWN, ROUNDS = 512, 16, 7


@dataclass(frozen=True)
class PrefixFigures:
    """Seconds are medians.

    Attributes:
        shared_tokens: Tokens that all requests begin with.
        cold_ttft_s: Nothing is reused.
        hit_ttft_s: The shared tokens are reused, base model.
        adapter_hit_ttft_s: The same for an adapter, whose upper half depends on the whole prompt.
        late_hit_ttft_s: The same for an adapter that begins after the shared tokens.
        ratio: Cold over hit; the target is 5.
        adapter_ratio: Cold over an adapter's hit; the lower half alone is shared, so 2 at the most.
        late_ratio: Cold over the hit of an adapter that begins after it; the target is 5.
        hit_ratio: Share of the prompt tokens that were reused.
    """

    shared_tokens: int
    cold_ttft_s: float
    hit_ttft_s: float
    adapter_hit_ttft_s: float
    late_hit_ttft_s: float
    ratio: float
    adapter_ratio: float
    late_ratio: float
    hit_ratio: float


def measure(weights: str = "auto") -> PrefixFigures:
    """Measure one engine, with prefixes that are new each time and then with one shared."""
    with engine(weights=weights, rows=4) as served:
        _ask(served, 0, 0)  # warm
        cold = [_ask(served, 1000 + n, n) for n in range(ROUNDS)]
        _ask(served, 1, 0)
        before = served.worker.counters.reused_tokens
        hit = [_ask(served, 1, n) for n in range(ROUNDS)]
        reused = served.worker.counters.reused_tokens - before
        adapted = [_ask(served, 1, n, adapter="s0") for n in range(ROUNDS)]
        late = [_ask(served, 1, 50 + n, adapter="s0", adapter_start=SHARED) for n in range(ROUNDS)]
    return PrefixFigures(
        shared_tokens=SHARED,
        cold_ttft_s=median(cold),
        hit_ttft_s=median(hit),
        adapter_hit_ttft_s=median(adapted),
        late_hit_ttft_s=median(late),
        ratio=median(cold) / median(hit),
        adapter_ratio=median(cold) / median(adapted),
        late_ratio=median(cold) / median(late),
        hit_ratio=reused / (ROUNDS * (SHARED + OWN)),
    )


def _ask(served: Engine, prefix: int, own: int, **fields: Any) -> float:
    ids = random_ids(SHARED, prefix) + random_ids(OWN, 50_000 + own)
    return served.ask(ids, 1, **fields).wait().ttft_s


if __name__ == "__main__":
    show(measure())
