"""Profile of decode steps and prefill, and their time beside that of the products alone."""

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.engine.engine_fixture import DecodeLoop, load
from benchmarks.engine.measurement import Measurement, Target

TARGETS: dict[str, Target] = {}
CASES = {"1 row": (1, 1, 12), "16 rows": (16, 1, 6), "prompt of 512": (1, 512, 1)}


def milliseconds(work: Callable[[], object], times: int) -> float:
    """Return the mean time of ``work``."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return 1e3 * (time.perf_counter() - began) / times


def run(rounds: int) -> Measurement:
    """Profile steps and time their products alone on inputs of the same size."""
    del rounds
    result = Measurement()
    loaded = load()
    ours = DecodeLoop(loaded, None, rows=16)
    result.figures["weights"] = loaded.weight_format
    for name, (rows, tokens, times) in CASES.items():
        ids = torch.full((rows, tokens), 504)
        start = 64 if tokens == 1 else 0
        head = ours.decoder.linears[-1]
        inputs = [
            (product, torch.randn(rows, 1 if product is head else tokens, product.in_features))
            for product in ours.decoder.linears
        ]

        def step(ids: torch.Tensor = ids, start: int = start) -> None:
            ours.forward(ids, start)

        def products(inputs: list = inputs) -> None:  # type: ignore[type-arg]
            with torch.inference_mode():
                for product, x in inputs:
                    product.forward(x)

        step()
        products()
        total_ms, alone = milliseconds(step, times), milliseconds(products, times)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(times):
                step()
        ops = sorted(seen.key_averages(), key=lambda op: -op.self_cpu_time_total)
        total = sum(op.self_cpu_time_total for op in ops)
        result.figures[name] = {
            "step_ms": round(total_ms, 2),
            "products_alone_ms": round(alone, 2),
            "share": {op.key: round(op.self_cpu_time_total / total, 3) for op in ops[:8]},
        }
        result.ratios[f"products alone / step, {name}"] = round(alone / total_ms, 3)
    return result
