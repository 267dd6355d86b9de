"""Throughput of 1,024 registered adapters through 32 slots.

Sixteen sequences, 48 requests of 32 + 16 tokens at once: all of one adapter, each of another
resident adapter, and each of another adapter that must first be copied into a slot.
"""

import time

from benchmarks.engine.measurement import Measurement, Target, percentile
from benchmarks.engine.timed_engine import TimedEngine, random_ids, running_engine

TARGETS = {
    "1,024 registered / one": Target(0.9),
    "p95 of 1,024 / p95 of one": Target(1.25, at_most=True),
}
REGISTERED, SLOTS, REQUESTS, PROMPT, TOKENS = 1024, 32, 48, 32, 16


def run(rounds: int) -> Measurement:
    """Measure the three working sets in one engine; ``rounds`` is ignored."""
    del rounds
    with running_engine(
        adapters=REGISTERED, slots=SLOTS, context_tokens=128, prefix_bytes=0
    ) as engine:
        _rate_and_p95(engine, ["s0"] * 16)  # warm-up
        one, one_p95_s = _rate_and_p95(engine, ["s0"] * REQUESTS)
        names = [f"s{n}" for n in range(16)]
        _rate_and_p95(engine, names)
        resident, resident_p95_s = _rate_and_p95(engine, [names[n % 16] for n in range(REQUESTS)])
        paged, paged_p95_s = _rate_and_p95(engine, [f"s{500 + n}" for n in range(REQUESTS)])
        page_in_s = _page_in_s(engine)
    return Measurement(
        {
            "registered": REGISTERED,
            "slots": SLOTS,
            "one": one,
            "resident": resident,
            "paged": paged,
            "one_p95_s": one_p95_s,
            "resident_p95_s": resident_p95_s,
            "paged_p95_s": paged_p95_s,
            "resident_ratio": resident / one,
            "page_in_s": page_in_s,
        },
        {
            "1,024 registered / one": round(paged / one, 3),
            "p95 of 1,024 / p95 of one": round(paged_p95_s / one_p95_s, 3),
        },
    )


def _rate_and_p95(engine: TimedEngine, adapters: list[str]) -> tuple[float, float]:
    """Return tokens per second and the 95th percentile of the requests' seconds."""
    began = time.perf_counter()
    requests = [
        engine.submit(random_ids(PROMPT, number), TOKENS, adapter=adapter)
        for number, adapter in enumerate(adapters)
    ]
    seconds = [one.wait().seconds for one in requests]
    rate = len(adapters) * TOKENS / (time.perf_counter() - began)
    return rate, percentile(seconds, 0.95)


def _page_in_s(engine: TimedEngine) -> float:
    """Return the time to copy one adapter into a slot, while the engine is idle."""
    bank = engine.engine.core.binding.bank
    assert bank is not None
    names = [f"s{900 + n}" for n in range(20)]
    began = time.perf_counter()
    for name in names:
        bank.release(bank.acquire(name))
    return (time.perf_counter() - began) / len(names)
