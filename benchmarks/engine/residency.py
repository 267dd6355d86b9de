"""1,024 registered adapters through 32 slots: ``python -m benchmarks.engine.residency``.

Sixteen rows, 48 requests of 32 + 16 tokens at once: all of one adapter, each of another adapter that
is resident, and each of another that must come into a slot first.
"""

import time
from dataclasses import dataclass

from benchmarks.engine.serving import Engine, engine, percentile, random_ids, show

REGISTERED, SLOTS, REQUESTS, PROMPT, TOKENS = 1024, 32, 48, 32, 16


@dataclass(frozen=True)
class ResidencyFigures:
    """Completion tokens a second, and seconds of a request from its arrival to its end.

    Attributes:
        registered: Adapters loaded.
        slots: Adapters resident at once.
        one: One adapter for all requests.
        resident: Adapters of the resident set.
        paged: An adapter of its own for each request; none is resident.
        one_p95_s: 95th percentile of the requests' time, one adapter.
        resident_p95_s: The same, resident adapters.
        paged_p95_s: The same, paged adapters.
        resident_ratio: Resident over one.
        paged_ratio: Paged over one; the target is 0.9.
        page_in_s: Seconds to bring one adapter into a slot.
    """

    registered: int
    slots: int
    one: float
    resident: float
    paged: float
    one_p95_s: float
    resident_p95_s: float
    paged_p95_s: float
    resident_ratio: float
    paged_ratio: float
    page_in_s: float


def measure(weights: str = "auto") -> ResidencyFigures:
    """Measure the three working sets in one engine."""
    with engine(
        weights=weights,
        rows=16,
        adapters=REGISTERED,
        slots=SLOTS,
        context_tokens=128,
        prefix_bytes=0,
    ) as served:
        _run(served, ["s0"] * 16)  # warm
        one = _run(served, ["s0"] * REQUESTS)
        names = [f"s{n}" for n in range(16)]
        _run(served, names)
        resident = _run(served, [names[n % 16] for n in range(REQUESTS)])
        paged = _run(served, [f"s{500 + n}" for n in range(REQUESTS)])
        page_in = _page_in(served)
    return ResidencyFigures(
        registered=REGISTERED,
        slots=SLOTS,
        one=one[0],
        resident=resident[0],
        paged=paged[0],
        one_p95_s=one[1],
        resident_p95_s=resident[1],
        paged_p95_s=paged[1],
        resident_ratio=resident[0] / one[0],
        paged_ratio=paged[0] / one[0],
        page_in_s=page_in,
    )


def _run(served: Engine, adapters: list[str]) -> tuple[float, float]:
    """Return tokens a second and the 95th percentile of the requests' seconds."""
    began = time.perf_counter()
    asked = [
        served.ask(random_ids(PROMPT, number), TOKENS, adapter=adapter)
        for number, adapter in enumerate(adapters)
    ]
    seconds = [one.wait().seconds for one in asked]
    rate = len(adapters) * TOKENS / (time.perf_counter() - began)
    return rate, percentile(seconds, 0.95)


def _page_in(served: Engine) -> float:
    """Return the time that one adapter takes into a slot; the engine does nothing meanwhile."""
    bank = served.worker.core.binding.bank
    assert bank is not None
    names = [f"s{900 + n}" for n in range(20)]
    began = time.perf_counter()
    for name in names:
        bank.release(bank.acquire(name))
    return (time.perf_counter() - began) / len(names)


if __name__ == "__main__":
    show(measure())
