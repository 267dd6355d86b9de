"""Perplexity and choices, scored by the engine."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bem.engine import LLMEngine, ScoreRequest, score
from bem.errors import EvaluationError
from bem_fleet.evaluation import likelihoods
from bem_fleet.evaluation.likelihoods import (
    LikelihoodCache,
    MultipleChoiceQuestion,
    answer_multiple_choice,
    choice_calibration_error,
    text_log_likelihoods,
    text_perplexity,
)
from bem_fleet.evaluation.systems import Message

from tests.support.begun_texts import begun_backbone
from tests.support.oracle_comparison import tiny_worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LLMEngine]:
    """A running worker with the adapter alpha."""
    with tiny_worker(tmp_path) as made:
        yield made


def test_perplexity_counts_every_token_but_the_first(worker: LLMEngine) -> None:
    """Texts longer than the context are scored in pieces; an adapter has another perplexity."""
    texts = ["a short one", "a long one " * 120]
    found = text_log_likelihoods(worker, texts)
    values = [value for one in found for value in one]

    assert len(found[0]) == len(texts[0]) - 1
    assert len(found[1]) == len(texts[1]) - 1
    assert text_perplexity(worker, texts) == pytest.approx(
        math.exp(-math.fsum(values) / len(values))
    )
    assert text_perplexity(worker, texts, "alpha") != text_perplexity(worker, texts)


def test_texts_are_scored_behind_the_token_that_they_begin_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is context of every piece and never scored."""
    worker = LLMEngine(begun_backbone(), max_sequences=4, max_waiting=64, context_tokens=64)
    requests: list[ScoreRequest] = []

    def record(_: LLMEngine, batch: list[ScoreRequest], **__: Any) -> list[list[float]]:
        requests.extend(batch)
        return [[0.0] * len(one.target_ids) for one in batch]

    monkeypatch.setattr(LikelihoodCache, "score", lambda _, *one, **other: record(*one, **other))
    (values,) = text_log_likelihoods(worker, ["a long one " * 12])

    assert len(values) == 12 * len("a long one ") - 1
    assert len(requests) > 1
    assert {one.prompt_ids[0] for one in requests} == {worker.backbone.tokenizer.bos_token_id}
    assert {len(one.prompt_ids) for one in requests} == {2}
    assert max(one.tokens for one in requests) == worker.context_tokens


def test_likeliest_reply_is_chosen_with_its_share(worker: LLMEngine) -> None:
    """Confidences are shares of the replies and go into the calibration error."""
    replies = ("yes", "no, never", "perhaps so")
    questions = [
        MultipleChoiceQuestion((Message("user", f"is it {n}?"),), replies, n % 3) for n in range(9)
    ]
    found = answer_multiple_choice(worker, questions)

    assert all(1 / 3 <= one.confidence <= 1 for one in found)
    assert [one.correct for one in found] == [
        float(one.index == question.right) for one, question in zip(found, questions, strict=True)
    ]
    assert 0 <= choice_calibration_error(found) <= 1


def test_what_was_scored_is_read_back(worker: LLMEngine, tmp_path: Path) -> None:
    """The same tokens under the same model and adapter are scored once, also after a restart."""
    texts = ["a short one", "another one"]
    question = MultipleChoiceQuestion((Message("user", "is it?"),), ("yes", "no"), 0)
    cache = LikelihoodCache(tmp_path / "likelihoods.jsonl")
    found = text_log_likelihoods(worker, texts, cache=cache)
    chosen = answer_multiple_choice(worker, [question], cache=cache)
    again = LikelihoodCache(tmp_path / "likelihoods.jsonl")

    assert cache.computed == 4
    assert text_log_likelihoods(worker, texts, cache=again) == found
    assert answer_multiple_choice(worker, [question], cache=again) == chosen
    assert again.computed == 0
    assert text_log_likelihoods(worker, texts, "alpha", cache=again) != found
    assert again.computed == 2


def test_what_cannot_be_scored_is_named(worker: LLMEngine) -> None:
    """Texts need two tokens, questions two replies."""
    with pytest.raises(EvaluationError, match="text 1: 1 tokens"):
        text_log_likelihoods(worker, ["good", "x"])
    with pytest.raises(EvaluationError, match="question 0"):
        answer_multiple_choice(
            worker, [MultipleChoiceQuestion((Message("user", "?"),), ("only",), 0)]
        )


def test_a_strength_needs_a_safety_adapter(worker: LLMEngine) -> None:
    """Scores of the base model must not pass for scores with safety."""
    question = MultipleChoiceQuestion((Message("user", "?"),), ("yes", "no"), 0)
    with pytest.raises(EvaluationError, match=r"safety_strength: 0\.5; this worker has no safety"):
        answer_multiple_choice(worker, [question], safety_strength=0.5)


def test_an_interrupted_run_keeps_what_was_scored(
    worker: LLMEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is written while the run goes on, so that a second run takes up there."""
    monkeypatch.setattr(likelihoods, "_STORED_TOGETHER", 2)
    texts = [f"text number {number}" for number in range(6)]
    cache = LikelihoodCache(tmp_path / "likelihoods.jsonl")
    done = 0

    def fail_at_the_third_part(*arguments: Any, **settings: Any) -> list[list[float]]:
        nonlocal done
        done += 1
        if done == 3:
            raise EvaluationError("the engine is closing")
        return score(*arguments, **settings)

    monkeypatch.setattr(likelihoods, "score", fail_at_the_third_part)
    with pytest.raises(EvaluationError):
        text_log_likelihoods(worker, texts, cache=cache)
    again = LikelihoodCache(tmp_path / "likelihoods.jsonl")

    assert text_log_likelihoods(worker, texts, cache=again) == text_log_likelihoods(worker, texts)
    assert again.computed == 2
