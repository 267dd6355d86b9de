"""Stalls of running requests while a long prompt is computed.

Eight requests decode; a prompt of 2,048 tokens arrives, and after it a short one. A stall is the
time between two tokens of one of the eight, in units of the decode step before the prompt came,
less one.
"""

from benchmarks.engine.measurement import Measurement, Target, median, percentile
from benchmarks.engine.timed_engine import TimedRequest, random_ids, running_engine

TARGETS = {"stall p95, steps": Target(2.0, at_most=True)}
RUNNING, LONG, SHORT, ROUNDS = 8, 2048, 32, 6


def run(rounds: int) -> Measurement:
    """Measure ``ROUNDS`` long prompts; ``rounds`` is ignored."""
    del rounds
    steps: list[float] = []
    stalls: list[float] = []
    longs: list[float] = []
    shorts: list[float] = []
    with running_engine(
        max_sequences=RUNNING + 2, context_tokens=LONG + 512, prefix_bytes=0
    ) as engine:
        for number in range(ROUNDS):
            running = [engine.submit(random_ids(16, n), 190) for n in range(RUNNING)]
            while min(len(one.token_times) for one in running) < 24:
                running[0].done.wait(0.05)
            long = engine.submit(random_ids(LONG, 100 + number), 2)
            short = engine.submit(random_ids(SHORT, 200 + number), 2)
            shorts.append(short.wait().ttft_s)
            longs.append(long.wait().ttft_s)
            for one in running:
                one.wait()
            step = median([gap for one in running for gap in _gaps(one, 0, long.submitted_at)[4:]])
            steps.append(step)
            during = [_gaps(one, long.submitted_at, long.token_times[0]) for one in running]
            stalls += [gap / step - 1 for gaps in during for gap in gaps]
    p95 = percentile(stalls, 0.95)
    return Measurement(
        {
            "step_s": median(steps),
            "stall_steps_p50": median(stalls),
            "stall_steps_p95": p95,
            "stall_steps_max": max(stalls),
            "long_ttft_s_p95": percentile(longs, 0.95),
            "short_ttft_s_p95": percentile(shorts, 0.95),
        },
        {"stall p95, steps": round(p95, 3)},
    )


def _gaps(request: TimedRequest, begin: float, end: float) -> list[float]:
    """Return the seconds between neighbouring tokens of which the later came in [begin, end]."""
    pairs = zip(request.token_times, request.token_times[1:], strict=False)
    return [later - earlier for earlier, later in pairs if begin <= later <= end]
