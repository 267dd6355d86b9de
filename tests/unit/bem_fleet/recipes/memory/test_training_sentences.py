"""Training sentences of the memory recipe with the tiny model."""

import torch
from bem.memory import EmbeddingStates
from bem_fleet.recipes.memory.training_sentences import (
    NATURAL_TASK,
    memory_text,
    training_sentences,
)

from tests.unit.bem.memory.sessions import backbone, encoder


def test_facts_are_marked_and_questions_point_at_them() -> None:
    """Planted facts are positives, most pieces are not, and absent items are not in the text."""
    tokenizer = encoder().tokenizer
    text = memory_text("train", tokenizer, characters=4000, items=2, seed=0, absent=1)
    found = training_sentences(text, tokenizer, EmbeddingStates(backbone()))

    assert text.natural
    assert {one.task for one in text.natural} == {NATURAL_TASK}
    assert all(one.needles[0] in text.text for one in text.planted)
    assert not any(one.needles[0] in text.text for one in text.absent)
    assert 0 < int(found.asked.sum()) < len(found.asked) / 2
    assert bool(found.asked[found.rows].all())
    assert found.states.shape == (len(found.asked), 32)
    assert len(found.questions) == len(found.rows) == len(found.groups)
    assert torch.isfinite(found.surface).all()
