"""Tests of the refusal that the safety adapter learns."""

from bem.testing import tiny_backbone
from bem.training.safety.examples import OPENING, REFUSAL, opening_ids, refusal_ids


def test_refusal_ends_its_turn_and_is_longer_than_its_opening() -> None:
    """The token ids are the refusal and one end token."""
    backbone = tiny_backbone()
    ids = refusal_ids(backbone)

    assert backbone.tokenizer.decode(ids[:-1]) == REFUSAL
    assert ids[-1] in backbone.end_token_ids


def test_opening_is_the_same_text_with_any_tokenizer() -> None:
    """A tokenizer with shorter tokens has more of them, and not a shorter opening."""
    backbone = tiny_backbone()
    ids = opening_ids(backbone)

    assert backbone.tokenizer.decode(ids) == OPENING
    assert ids == refusal_ids(backbone)[: len(ids)]
    assert len(ids) == len(OPENING)  # a byte each
