"""Tests of the refusal that the safety adapter learns."""

from bem.testing import tiny_backbone
from bem.training.safety.examples import OPENING_TOKENS, REFUSAL, refusal_ids


def test_refusal_ends_its_turn_and_is_longer_than_its_opening() -> None:
    """The token ids are the refusal and one end token."""
    backbone = tiny_backbone()
    ids = refusal_ids(backbone)

    assert backbone.tokenizer.decode(ids[:-1]) == REFUSAL
    assert ids[-1] in backbone.end_token_ids
    assert len(ids) > OPENING_TOKENS
