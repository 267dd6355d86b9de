"""Throughput of 16 and 64 concurrent requests, scheduling, sampling and detokenising included."""

import time

from bem.engine import LLMEngine

from benchmarks.engine.engine_fixture import complete_all, load
from benchmarks.engine.measurement import Measurement, Target, alternating_rates, medians, ratio

TARGETS = {"64 / 16": Target(1.0)}
PROMPT, TOKENS = 16, 48


def run(rounds: int) -> Measurement:
    """Measure generated tokens over the time from the first request to the last output."""
    result = Measurement()
    loaded = load()
    result.figures["weights"] = loaded.weight_format
    engine = LLMEngine(loaded, max_sequences=64, max_waiting=64, context_tokens=256, prefix_bytes=0)
    engine.start()
    prompts = [[500 + row + i for i in range(PROMPT)] for row in range(64)]
    counts: dict[int, int] = {}

    def side(rows: int) -> float:
        began = time.perf_counter()
        counts[rows] = complete_all(engine, prompts[:rows], TOKENS)
        return counts[rows] / (time.perf_counter() - began)

    sides = {"16": lambda: side(16), "64": lambda: side(64)}
    complete_all(engine, prompts, 2)  # warm-up
    measured = alternating_rates(sides, rounds, warm_up=False)
    engine.close(drain=True)
    result.figures |= {"tokens_per_s": medians(measured), "generated": counts}
    result.ratios["64 / 16"] = ratio(measured["64"], measured["16"])
    return result
