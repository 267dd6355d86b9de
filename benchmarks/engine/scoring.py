"""Scoring against raw prefill: ``python -m benchmarks.engine.scoring``.

The same texts of 64 to 384 tokens: as questions with 16 tokens to score, as whole texts, and as
prompts of which one token is asked for, one after the other, as the engine computes them.
"""

import time
from dataclasses import dataclass

from bem.engine import ScoreRequest, score

from benchmarks.engine.serving import Engine, engine, median, random_ids, show

LENGTHS, TARGET, ROUNDS = (64, 96, 160, 224, 288, 256), 16, 2


@dataclass(frozen=True)
class ScoringFigures:
    """Tokens a second, medians of paired rounds.

    Attributes:
        prefill: Raw prefill: no logits but a prompt's last.
        answers: Scoring 16 tokens after each prompt, base model.
        adapter_answers: The same under an adapter.
        texts: Scoring every token, the head over the vocabulary included.
        answers_ratio: Answers over prefill; the target is 0.9.
        adapter_answers_ratio: The same under an adapter, over an adapter's prefill.
        texts_ratio: Texts over prefill.
    """

    prefill: float
    answers: float
    adapter_answers: float
    texts: float
    answers_ratio: float
    adapter_answers_ratio: float
    texts_ratio: float


def measure(weights: str = "auto") -> ScoringFigures:
    """Measure every way in turn, round by round."""
    texts = [random_ids(length, number) for number, length in enumerate(LENGTHS)]
    answers = [ScoreRequest(tuple(ids[:-TARGET]), tuple(ids[-TARGET:])) for ids in texts]
    adapted = [ScoreRequest(one.prompt_ids, one.target_ids, "s0") for one in answers]
    whole = [ScoreRequest(tuple(ids[:1]), tuple(ids[1:])) for ids in texts]
    found: dict[str, list[float]] = {}
    with engine(weights=weights, rows=1, prefix_bytes=0) as served:
        served.ask(texts[0], 1).wait()  # warm
        for _ in range(ROUNDS):
            for name, seconds in (
                ("prefill", _prefill(served, texts, None)),
                ("adapter_prefill", _prefill(served, texts, "s0")),
                ("answers", _score(served, answers)),
                ("adapter_answers", _score(served, adapted)),
                ("texts", _score(served, whole)),
            ):
                found.setdefault(name, []).append(sum(LENGTHS) / seconds)
    speed = {name: median(values) for name, values in found.items()}
    return ScoringFigures(
        prefill=speed["prefill"],
        answers=speed["answers"],
        adapter_answers=speed["adapter_answers"],
        texts=speed["texts"],
        answers_ratio=speed["answers"] / speed["prefill"],
        adapter_answers_ratio=speed["adapter_answers"] / speed["adapter_prefill"],
        texts_ratio=speed["texts"] / speed["prefill"],
    )


def _prefill(served: Engine, texts: list[list[int]], adapter: str | None) -> float:
    began = time.perf_counter()
    for timed in [served.ask(ids, 1, adapter=adapter) for ids in texts]:
        timed.wait()
    return time.perf_counter() - began


def _score(served: Engine, requests: list[ScoreRequest]) -> float:
    began = time.perf_counter()
    score(served.worker, requests, progress=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    show(measure())
