"""Tests of the memory encoder."""

import numpy as np
import pytest
import torch
from bem.errors import InvalidRequestError
from bem.memory import EmbeddingStates, MemoryEncoder, MemoryModules, SlotTokenizer
from bem.memory.encoder import surface_features
from bem.memory.session import Cursor

from tests.unit.bem.memory.sessions import backbone, encoder


def test_pooled_states_do_not_depend_on_their_batch() -> None:
    """A sentence has the state alone that it has beside others, to rounding."""
    states = EmbeddingStates(backbone())
    together = states.pooled([[1, 2, 3], [4], [5, 6]])

    torch.testing.assert_close(states.pooled([[4]])[0], together[1])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_batch_has_a_write_for_each_piece() -> None:
    """Sentences carry ids, offset, words and a unit key; the open end is pending."""
    batch = encoder().batch(Cursor(10, ""), "Ada has 3 keys. The rest", "book", ends=False)
    (write,) = batch.writes

    assert (batch.position, batch.pending) == (34, "The rest")
    assert write["begin"] == 10
    assert write["entities"] == 2
    assert np.linalg.norm(write["key"].astype(float)) == pytest.approx(127, rel=0.02)
    text = encoder().tokenizer.text(write["ids"][: write["tokens"]].tolist())
    assert text == "Ada has 3 keys. "


def test_surface_features_are_shares() -> None:
    """Entities count by words, digits by characters, tokens by the size of a slot."""
    assert surface_features("Ada has 33", 2, 24).tolist() == pytest.approx([2 / 3, 0.2, 0, 0.5])


def test_question_is_limited() -> None:
    """An empty or long question is the caller's error; a good one is encoded."""
    question = encoder().question("Where is Ada?")

    assert np.linalg.norm(question.key) == pytest.approx(1, rel=1e-5)
    assert question.entities == 1
    for text in (" ", "word " * 200):
        with pytest.raises(InvalidRequestError, match="1 to 256 are allowed"):
            encoder().question(text)


def test_modules_of_another_width_are_refused() -> None:
    """Modules and states must have one width."""
    with pytest.raises(ValueError, match="width 8; the model has 32"):
        MemoryEncoder(
            SlotTokenizer(backbone().tokenizer), EmbeddingStates(backbone()), MemoryModules(8)
        )
