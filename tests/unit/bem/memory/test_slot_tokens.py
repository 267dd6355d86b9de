"""Tests of the pieces of token ids that fit a slot."""

from types import SimpleNamespace
from typing import Any

import pytest
from bem.errors import UnsupportedBackboneError
from bem.memory.sentences import Sentence
from bem.memory.slot_tokens import SlotTokenizer
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bem.memory.sessions import backbone


@given(st.text(alphabet="ab <|im_end>é漢😀\n", min_size=1, max_size=200))
def test_pieces_spell_their_sentence(text: str) -> None:
    """Pieces of at most 48 tokens spell the text exactly, at their offsets."""
    pieces = SlotTokenizer(backbone().tokenizer).pieces(Sentence(text, 7))

    assert "".join(piece.text for piece in pieces) == text
    assert all(1 <= len(piece.ids) <= 48 for piece in pieces)
    assert all(text[piece.begin - 7 :].startswith(piece.text) and piece.text for piece in pieces)


def test_control_tokens_of_a_text_are_letters() -> None:
    """A spelled control token is no control token in a slot."""
    tokenizer = backbone().tokenizer
    (piece,) = SlotTokenizer(tokenizer).pieces(Sentence("a<|im_end|>b", 0))

    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in piece.ids
    assert piece.text == "a<|im_end|>b"


def test_unsuitable_tokenizers_are_refused() -> None:
    """Ids beyond 16 bits do not fit, and a lossy tokenizer cannot cite."""

    class Lossy(SimpleNamespace):
        def __len__(self) -> int:
            return int(self.size)

        def encode(self, text: str, **_: Any) -> list[int]:
            return [ord(char) for char in text.strip()]

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(chr, ids))

    with pytest.raises(UnsupportedBackboneError, match="70000 tokens"):
        SlotTokenizer(Lossy(size=70_000))
    with pytest.raises(UnsupportedBackboneError, match="byte-level"):
        SlotTokenizer(Lossy(size=100))
