"""What serving adds: shared prefixes, stalls, switching, scoring, more skills than slots."""

from dataclasses import asdict

from benchmarks.engine import prefix, residency, scoring, stalls, switching
from benchmarks.engine.found import Found, Target

NAME = "serving"
TARGETS = {
    "TTFT without / with 512 shared tokens": Target(5.0),
    "stall p95 in steps, 2,048 tokens arrive": Target(2.0, True),
    "TTFT anew / switched at 2,048 tokens": Target(5.0),
    "scoring answers / prefill": Target(0.9),
    "scoring every token / prefill": Target(0.9),
    "a skill a request of 1,024 / one skill": Target(0.9),
}


def run(rounds: int) -> Found:
    """Run each part once; each has its own rounds."""
    del rounds
    shared, stalled, switched = prefix.measure(), stalls.measure(), switching.measure()
    scored, paged = scoring.measure(), residency.measure()
    parts = (shared, stalled, switched, scored, paged)
    ratios = (
        shared.ratio,
        stalled.stall_steps_p95,
        switched.ratio,
        scored.answers_ratio,
        scored.texts_ratio,
        paged.paged_ratio,
    )
    return Found(
        figures={type(part).__name__: asdict(part) for part in parts},
        ratios={name: round(value, 3) for name, value in zip(TARGETS, ratios, strict=True)},
        notes=["weights as `auto` picks them"],
    )
