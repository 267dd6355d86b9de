"""Time to the first token after an adapter switch in the middle of a conversation.

A conversation of 2,048 tokens continues with 24 new ones under another adapter: with the adapter
starting at the new tokens, and with everything computed again under its code.
"""

from bem.engine import Segment

from benchmarks.engine.measurement import Measurement, Target, median
from benchmarks.engine.timed_engine import TimedEngine, random_ids, running_engine

TARGETS = {"anew TTFT / switched, 2k tokens": Target(5.0)}
HISTORY, NEW, ROUNDS = 2048, 24, 5


def run(rounds: int) -> Measurement:
    """Measure conversations after a base-model and after an adapter turn; ``rounds`` is ignored."""
    del rounds
    from_base, from_adapter = [], []
    with running_engine(max_sequences=2, context_tokens=HISTORY + 64, prefix_bytes=2**29) as engine:
        earlier = (Segment(start=0, code_prefix_tokens=HISTORY, adapter="s1"),)
        history = random_ids(HISTORY, 7)
        # No block of these prompts is in the prefix cache.
        uncached = [random_ids(HISTORY, 100 + number) for number in range(2)]
        anew = median([_ttft_s(engine, other, 0) for other in uncached])
        engine.submit(history, 1).wait()
        engine.submit(history, 1, adapter="s1").wait()
        for number in range(ROUNDS):
            switched = {"adapter_start": HISTORY}
            from_base.append(_ttft_s(engine, history, number, **switched))
            from_adapter.append(
                _ttft_s(engine, history, number, **switched, earlier_segments=earlier)
            )
        lower = median([_ttft_s(engine, history, 50 + number) for number in range(2)])
    slower = max(median(from_base), median(from_adapter))
    return Measurement(
        {
            "history_tokens": HISTORY,
            "anew_ttft_s": anew,
            "anew_lower_ttft_s": lower,
            "from_base_ttft_s": median(from_base),
            "from_adapter_ttft_s": median(from_adapter),
        },
        {"anew TTFT / switched, 2k tokens": round(anew / slower, 3)},
    )


def _ttft_s(engine: TimedEngine, history: list[int], number: int, **fields: object) -> float:
    ids = history + random_ids(NEW, 90_000 + number)
    return engine.submit(ids, 1, adapter="s0", **fields).wait().ttft_s
