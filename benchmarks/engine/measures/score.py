"""Log-likelihoods beside raw prefill."""

from dataclasses import asdict

from benchmarks.engine import scoring
from benchmarks.engine.found import Found, Target

TARGETS = {"answers / prefill": Target(0.9)}


def run(rounds: int) -> Found:
    """Take the module's own rounds."""
    del rounds
    figures = scoring.measure()
    return Found(asdict(figures), {"answers / prefill": round(figures.answers_ratio, 3)})
