"""Requests beside two other processes that compute without pause, against a quiet machine.

Each round serves the same requests on the quiet machine, then beside the two, from their first
moment on: the steps that the engine takes to notice them count. On two processors a fair share of
the time is a half.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from benchmarks.engine.measurement import Measurement, Target, median, percentile
from benchmarks.engine.timed_engine import TimedEngine, random_ids, running_engine

THROUGHPUT, GAP = "throughput beside two / quiet", "p95 between tokens beside two / quiet"
TARGETS = {THROUGHPUT: Target(0.45), GAP: Target(3.0, at_most=True)}
REQUESTS, PROMPT, NEW, NEIGHBOURS = 16, 128, 96, 2


def run(rounds: int) -> Measurement:
    """Measure pairs of a quiet and a busy run; the ratios are medians over the rounds."""
    found: dict[str, list[tuple[float, float]]] = {"quiet": [], "busy": []}
    with running_engine(max_sequences=REQUESTS, context_tokens=512, prefix_bytes=0) as engine:
        _serve(engine)  # warm-up
        for _ in range(rounds):
            found["quiet"].append(_serve(engine))
            with _neighbours():
                found["busy"].append(_serve(engine))
    pairs = list(zip(found["busy"], found["quiet"], strict=True))
    return Measurement(
        {
            name: {
                "tokens_per_s": median([rate for rate, _ in runs]),
                "gap_ms_p95": 1e3 * median([gap for _, gap in runs]),
            }
            for name, runs in found.items()
        },
        {
            THROUGHPUT: round(median([busy[0] / quiet[0] for busy, quiet in pairs]), 3),
            GAP: round(median([busy[1] / quiet[1] for busy, quiet in pairs]), 3),
        },
    )


def _serve(engine: TimedEngine) -> tuple[float, float]:
    """Return new tokens per second and the 95th percentile of the seconds between tokens."""
    asked = [engine.submit(random_ids(PROMPT, n), NEW) for n in range(REQUESTS)]
    ended = max(one.wait().token_times[-1] for one in asked)
    gaps = [after - before for one in asked for before, after in pairwise(one.token_times)]
    return REQUESTS * NEW / (ended - asked[0].submitted_at), percentile(gaps, 0.95)


@contextmanager
def _neighbours() -> Iterator[None]:
    """Run processes that compute without pause."""
    command = [sys.executable, "-c", "while True: sum(range(100000))"]
    processes = [subprocess.Popen(command) for _ in range(NEIGHBOURS)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
