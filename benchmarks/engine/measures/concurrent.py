"""16 and 64 requests at once through the whole engine: scheduling, sampling and text included."""

import time

from bem.engine import LLMEngine

from benchmarks.engine.engine_fixture import backbone, serve
from benchmarks.engine.llama import ABSENT, llama
from benchmarks.engine.measurement import Measurement, Target, medians, rates, ratio

TARGETS = {
    "16 / llama.cpp, one stream": Target(3.5),
    "16 / llama.cpp, 16 in parallel": Target(1.0),
    "64 / 16": Target(1.0),
}
PROMPT, TOKENS = 16, 48


def run(rounds: int) -> Measurement:
    """Count generated tokens over the time from the first request to the last answer."""
    found = Measurement()
    loaded = backbone()
    found.figures["weights"] = loaded.weights
    worker = LLMEngine(loaded, max_sequences=64, max_waiting=64, context_tokens=256, prefix_bytes=0)
    worker.start()
    prompts = [[500 + row + i for i in range(PROMPT)] for row in range(64)]
    counts: dict[int, int] = {}

    def side(rows: int) -> float:
        began = time.perf_counter()
        counts[rows] = serve(worker, prompts[:rows], TOKENS)
        return counts[rows] / (time.perf_counter() - began)

    sides = {"16": lambda: side(16), "64": lambda: side(64)}
    serve(worker, prompts, 2)  # warm, so that the rounds need not be
    with llama() as ask:
        if ask:
            sides["llama.cpp, one stream"] = lambda: ask(decode=TOKENS)
            sides["llama.cpp, 16 in parallel"] = lambda: ask(batch=16, prompt=PROMPT, decode=TOKENS)
        measured = rates(sides, rounds, warm=False)
    worker.close(drain=True)
    found.figures |= {"tokens_per_s": medians(measured), "generated": counts}
    found.ratios["64 / 16"] = ratio(measured["64"], measured["16"])
    for name in ("llama.cpp, one stream", "llama.cpp, 16 in parallel"):
        there = name in measured
        found.ratios[f"16 / {name}"] = ratio(measured["16"], measured[name]) if there else None
    found.notes = [] if len(measured) > 2 else [ABSENT]
    return found
