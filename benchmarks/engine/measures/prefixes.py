"""What a shared prefix saves."""

from dataclasses import asdict

from benchmarks.engine import prefix
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {
    "cold TTFT / hit, 512 shared": Target(5.0),
    "cold TTFT / hit, an adapter": Target(5.0),
    "cold TTFT / hit, an adapter that begins after": Target(5.0),
}


def run(rounds: int) -> Measurement:
    """Take the module's own rounds."""
    del rounds
    figures = prefix.measure()
    return Measurement(
        asdict(figures),
        {
            "cold TTFT / hit, 512 shared": round(figures.ratio, 3),
            "cold TTFT / hit, an adapter": round(figures.adapter_ratio, 3),
            "cold TTFT / hit, an adapter that begins after": round(figures.late_ratio, 3),
        },
    )
