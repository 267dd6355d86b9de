"""A long prompt among running answers: ``python -m benchmarks.engine.stalls``.

Eight requests decode; a prompt of 2,048 tokens arrives, and later a short one. A stall is the
time between two tokens of one of the eight, in steps of the time that a step took before.
"""

from dataclasses import dataclass

from benchmarks.engine.serving import Timed, engine, median, percentile, random_ids, show

RUNNING, LONG, SHORT, ROUNDS = 8, 2048, 32, 6


@dataclass(frozen=True)
class StallFigures:
    """Of all rounds together.

    Attributes:
        step_s: Median step of the eight before the prompt arrived.
        stall_steps_p50: Median wait between two tokens while it was computed, less one step.
        stall_steps_p95: The 95th percentile of the same; the target is 2.
        stall_steps_max: The longest.
        long_ttft_s_p95: Time to the first token of the long prompt.
        short_ttft_s_p95: The same of a short prompt that arrived behind the long one.
    """

    step_s: float
    stall_steps_p50: float
    stall_steps_p95: float
    stall_steps_max: float
    long_ttft_s_p95: float
    short_ttft_s_p95: float


def measure(weights: str = "auto") -> StallFigures:
    """Measure ``ROUNDS`` long prompts."""
    steps: list[float] = []
    stalls: list[float] = []
    longs: list[float] = []
    shorts: list[float] = []
    with engine(
        weights=weights, rows=RUNNING + 2, context_tokens=LONG + 512, prefix_bytes=0
    ) as served:
        for number in range(ROUNDS):
            running = [served.ask(random_ids(16, n), 190) for n in range(RUNNING)]
            while min(len(one.times) for one in running) < 24:
                running[0].done.wait(0.05)
            long = served.ask(random_ids(LONG, 100 + number), 2)
            short = served.ask(random_ids(SHORT, 200 + number), 2)
            shorts.append(short.wait().ttft_s)
            longs.append(long.wait().ttft_s)
            for one in running:
                one.wait()
            step = median([gap for one in running for gap in _gaps(one, 0, long.began)[4:]])
            steps.append(step)
            during = [_gaps(one, long.began, long.times[0]) for one in running]
            stalls += [gap / step - 1 for gaps in during for gap in gaps]
    return StallFigures(
        step_s=median(steps),
        stall_steps_p50=median(stalls),
        stall_steps_p95=percentile(stalls, 0.95),
        stall_steps_max=max(stalls),
        long_ttft_s_p95=percentile(longs, 0.95),
        short_ttft_s_p95=percentile(shorts, 0.95),
    )


def _gaps(one: Timed, begin: float, end: float) -> list[float]:
    """Return the seconds between tokens of which the second came between two times."""
    pairs = zip(one.times, one.times[1:], strict=False)
    return [after - before for before, after in pairs if begin <= after <= end]


if __name__ == "__main__":
    show(measure())
