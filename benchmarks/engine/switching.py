"""Switching adapters in mid-conversation: ``python -m benchmarks.engine.switching``.

A conversation of 2,048 tokens goes on with 24 new ones under another adapter: with its code from
the new tokens on, and with everything computed anew under its code.
"""

from dataclasses import dataclass

from bem.engine import Segment

from benchmarks.engine.serving import Engine, engine, median, random_ids, show

HISTORY, NEW, ROUNDS = 2048, 24, 5


@dataclass(frozen=True)
class SwitchingFigures:
    """Seconds are medians.

    Attributes:
        history_tokens: Tokens before the switch.
        anew_ttft_s: All tokens computed under the new adapter's code.
        anew_lower_ttft_s: The same with the lower half, which no code changes, reused.
        from_base_ttft_s: The base model's keys and values stay.
        from_adapter_ttft_s: A earlier_segments adapter's keys and values stay.
        ratio: Anew over the slower of the two; the target is 5.
    """

    history_tokens: int
    anew_ttft_s: float
    anew_lower_ttft_s: float
    from_base_ttft_s: float
    from_adapter_ttft_s: float
    ratio: float


def measure(weights: str = "auto") -> SwitchingFigures:
    """Measure conversations that were each computed once under the base model and an adapter."""
    base, adapted = [], []
    with engine(weights=weights, rows=2, context_tokens=HISTORY + 64, prefix_bytes=2**29) as served:
        earlier_segments = (Segment(start=0, code_prefix_tokens=HISTORY, adapter="s1"),)
        history = random_ids(HISTORY, 7)
        # Nothing of these prompts was seen before.
        others = [random_ids(HISTORY, 100 + number) for number in range(2)]
        anew = [_ask(served, other, 0, adapter="s0") for other in others]
        served.ask(history, 1).wait()
        served.ask(history, 1, adapter="s1").wait()
        for number in range(ROUNDS):
            base.append(_ask(served, history, number, adapter="s0", adapter_start=HISTORY))
            adapted.append(
                _ask(
                    served,
                    history,
                    number,
                    adapter="s0",
                    adapter_start=HISTORY,
                    earlier_segments=earlier_segments,
                )
            )
        lower = [_ask(served, history, 50 + number, adapter="s0") for number in range(2)]
    return SwitchingFigures(
        history_tokens=HISTORY,
        anew_ttft_s=median(anew),
        anew_lower_ttft_s=median(lower),
        from_base_ttft_s=median(base),
        from_adapter_ttft_s=median(adapted),
        ratio=median(anew) / max(median(base), median(adapted)),
    )


def _ask(served: Engine, history: list[int], number: int, **fields: object) -> float:
    ids = history + random_ids(NEW, 90_000 + number)
    return served.ask(ids, 1, **fields).wait().ttft_s


if __name__ == "__main__":
    show(measure())
