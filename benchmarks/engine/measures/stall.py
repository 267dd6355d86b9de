"""How long running requests wait when a prompt of 2k tokens arrives."""

from dataclasses import asdict

from benchmarks.engine import stalls
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {"stall p95, steps": Target(2.0, at_most=True)}


def run(rounds: int) -> Measurement:
    """Take the module's own rounds."""
    del rounds
    figures = stalls.measure()
    return Measurement(asdict(figures), {"stall p95, steps": round(figures.stall_steps_p95, 3)})
