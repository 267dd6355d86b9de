"""Time from the start of the router's process to its first response, weight autotuning included."""

import os
import statistics

from benchmarks.engine.engine_fixture import CACHE
from benchmarks.engine.measurement import Measurement, Target
from benchmarks.process import start

TARGETS = {"warm start / 10 s": Target(1.0, True)}


def run(rounds: int) -> Measurement:
    """Start the router a few times on a warm cache."""
    os.environ["BEM_ROUTER_WEIGHTS"] = "auto"
    seconds = [start(CACHE)["seconds"] for _ in range(rounds)]
    middle = statistics.median(seconds)
    return Measurement({"seconds": round(middle, 2)}, {"warm start / 10 s": round(middle / 10, 3)})
