"""1,024 registered adapters, more than are resident."""

from dataclasses import asdict

from benchmarks.engine import residency
from benchmarks.engine.measurement import Measurement, Target

TARGETS = {
    "1,024 registered / one": Target(0.9),
    "p95 of 1,024 / p95 of one": Target(1.25, at_most=True),
}


def run(rounds: int) -> Measurement:
    """Take the module's own rounds."""
    del rounds
    figures = residency.measure()
    return Measurement(
        asdict(figures),
        {
            "1,024 registered / one": round(figures.paged_ratio, 3),
            "p95 of 1,024 / p95 of one": round(figures.paged_p95_s / figures.one_p95_s, 3),
        },
    )
