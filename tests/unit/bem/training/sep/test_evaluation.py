"""Scores of characters: uniform models have log2 V bits, and buckets average to the rows."""

import math

import pytest
import torch
from bem.sep.bijection_draws import draw_symbol_permutations
from bem.sep.character_model import CharacterModel
from bem.training.sep.evaluation import score_characters
from bem.training.sep.views import draw_texts, step_generator

from tests.support.tiny_character_training import TINY, tiny_text


def test_uniform_predictions_have_the_bits_of_the_alphabet() -> None:
    """A model whose states are 0 knows nothing: 3 bits for 8 symbols, ciphered or not."""
    model = CharacterModel(TINY)
    torch.nn.init.zeros_(model.norm.weight)
    texts = draw_texts(tiny_text(), 5, 20, step_generator(0, 0))
    cipher = draw_symbol_permutations(5, 8, step_generator(0, 1))

    for scores in (score_characters(model, texts), score_characters(model, texts, cipher=cipher)):
        assert scores.bits == pytest.approx([3.0])
        assert math.isnan(scores.accuracy)


def test_buckets_and_rows_are_of_the_same_bits() -> None:
    """Buckets by position and rows by text have one mean; late characters are counted."""
    torch.manual_seed(0)
    model = CharacterModel(TINY)
    texts = draw_texts(tiny_text(), 3, 300, step_generator(0, 0))
    scores = score_characters(model, texts, edges=(0, 100, 200, 400), batch=2)

    assert scores.edges == (0, 100, 200)
    assert sum(scores.bits) / 3 == pytest.approx(sum(scores.rows) / 3)
    assert 0 <= scores.accuracy <= 1
    assert scores == score_characters(model, texts, edges=(0, 100, 200, 400), batch=2)


def test_random_embeddings_are_drawn_from_the_generator() -> None:
    """Equal generators give equal scores, which are not those of the learned embeddings."""
    model = CharacterModel(TINY)
    texts = draw_texts(tiny_text(), 3, 20, step_generator(0, 0))
    first, again = (
        score_characters(model, texts, generator=step_generator(0, 9)) for _ in range(2)
    )

    assert first.rows == again.rows
    assert first.rows != score_characters(model, texts).rows
