"""Throughput of log-likelihood scoring beside raw prefill.

The same texts of 64 to 384 tokens: as questions with 16 tokens to score, as whole texts, and as
prompts of which one token is generated, one after the other, as the engine computes them.
"""

import time

from bem.engine import ScoreRequest, score

from benchmarks.engine.measurement import Measurement, Target, median
from benchmarks.engine.timed_engine import TimedEngine, random_ids, running_engine

TARGETS = {"answers / prefill": Target(0.9)}
LENGTHS, SCORED, ROUNDS = (64, 96, 160, 224, 288, 256), 16, 2


def run(rounds: int) -> Measurement:
    """Measure every way in turn, round by round; ``rounds`` is ignored."""
    del rounds
    texts = [random_ids(length, number) for number, length in enumerate(LENGTHS)]
    answers = [ScoreRequest(tuple(ids[:-SCORED]), tuple(ids[-SCORED:])) for ids in texts]
    adapter_answers = [ScoreRequest(one.prompt_ids, one.target_ids, "s0") for one in answers]
    full_texts = [ScoreRequest(tuple(ids[:1]), tuple(ids[1:])) for ids in texts]
    rates: dict[str, list[float]] = {}
    with running_engine(max_sequences=1, prefix_bytes=0) as engine:
        engine.submit(texts[0], 1).wait()  # warm-up
        for _ in range(ROUNDS):
            for name, seconds in (
                ("prefill", _prefill_s(engine, texts, None)),
                ("adapter_prefill", _prefill_s(engine, texts, "s0")),
                ("answers", _score_s(engine, answers)),
                ("adapter_answers", _score_s(engine, adapter_answers)),
                ("texts", _score_s(engine, full_texts)),
            ):
                rates.setdefault(name, []).append(sum(LENGTHS) / seconds)
    rate = {name: median(values) for name, values in rates.items()}
    return Measurement(
        {
            **rate,
            "adapter_answers_ratio": rate["adapter_answers"] / rate["adapter_prefill"],
            "texts_ratio": rate["texts"] / rate["prefill"],
        },
        {"answers / prefill": round(rate["answers"] / rate["prefill"], 3)},
    )


def _prefill_s(engine: TimedEngine, texts: list[list[int]], adapter: str | None) -> float:
    began = time.perf_counter()
    for request in [engine.submit(ids, 1, adapter=adapter) for ids in texts]:
        request.wait()
    return time.perf_counter() - began


def _score_s(engine: TimedEngine, requests: list[ScoreRequest]) -> float:
    began = time.perf_counter()
    score(engine.engine, requests, progress=False)
    return time.perf_counter() - began
