"""Another adapter in mid-conversation, beside computing the history anew."""

from dataclasses import asdict

from benchmarks.engine import switching
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {"anew TTFT / switched, 2k tokens": Target(5.0)}


def run(rounds: int) -> Measurement:
    """Take the module's own rounds."""
    del rounds
    figures = switching.measure()
    return Measurement(
        asdict(figures), {"anew TTFT / switched, 2k tokens": round(figures.ratio, 3)}
    )
