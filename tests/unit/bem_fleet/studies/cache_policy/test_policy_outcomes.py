"""Tests of the outcomes of cache policies."""

import pytest
from bem.cache_policy import EVICTION_POLICIES
from bem.engine import LLMEngine
from bem.engine.kv_cache import position_bytes
from bem.testing import tiny_backbone
from bem_fleet.data.passage_qa import PassageQuestion
from bem_fleet.studies.cache_policy.policy_outcomes import (
    PolicyOutcome,
    answer_all,
    compare_with_full,
)

QUESTIONS = [
    PassageQuestion(f"key-{at}", f"passage {at // 2} about a cat", "who sat?", "a cat")
    for at in range(6)
]


def outcome(system: str, exact: list[float]) -> PolicyOutcome:
    """Return an outcome with the same scores for both measures."""
    return PolicyOutcome(system, 0.5, {"exact_match": exact, "f1": exact}, 50, 100)


def test_the_loss_is_resampled_by_passage() -> None:
    """A row has bytes, means, and the difference with an interval over passages."""
    full = outcome("full", [1, 1, 1, 0, 1, 1])
    row = compare_with_full(outcome("h2o", [1, 1, 0, 0, 0, 1]), full, QUESTIONS)

    assert (row["bytes_share"], row["items"], row["passages"]) == (0.5, 6, 3)
    assert row["exact_match"] == pytest.approx(0.5)
    assert row["exact_match_difference"] == pytest.approx(-2 / 6)
    assert row["exact_match_low"] <= -2 / 6 <= row["exact_match_high"]


@pytest.mark.slow
def test_answers_and_bytes_are_those_of_the_policy() -> None:
    """Half of the bytes is half, and an engine without a policy keeps all."""
    engine = LLMEngine(tiny_backbone(context_tokens=1024), max_sequences=4, max_waiting=64)
    engine.start()
    how = {"adapter": None, "max_tokens": 4}
    full = answer_all(engine, QUESTIONS, None, 1.0, **how)  # type: ignore[arg-type]
    half = answer_all(engine, QUESTIONS, EVICTION_POLICIES["snapkv"](), 0.5, **how)  # type: ignore[arg-type]
    again = answer_all(engine, QUESTIONS, None, 1.0, **how)  # type: ignore[arg-type]
    engine.close(drain=True)

    assert full.prompt_bytes == full.full_bytes > 0
    assert full.full_bytes % position_bytes(engine.backbone) == 0
    assert half.prompt_bytes / half.full_bytes == pytest.approx(0.5, abs=0.01)
    assert again == full
