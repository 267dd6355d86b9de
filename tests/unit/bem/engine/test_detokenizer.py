"""Tests of the detokenizer: whole characters, and no part of a stop string."""

from typing import Any

from bem.engine.detokenizer import Detokenizer, StopStringBuffer, TokenBytes
from bem.testing import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ALPHABET = st.text(alphabet="abc", max_size=12)


@given(deltas=st.lists(ALPHABET, max_size=12), stop=st.lists(ALPHABET.filter(bool), max_size=4))
def test_any_split_gives_the_text_before_the_first_stop(deltas: list[str], stop: list[str]) -> None:
    """However the text is cut into deltas, exactly what precedes the earliest stop gets out."""
    hold = StopStringBuffer(stop)
    out = "".join(hold.push(delta) for delta in deltas) + hold.finish()
    whole = "".join(deltas)
    if not any(text in whole for text in stop):
        assert out == whole
        assert not hold.stopped
        return

    assert hold.stopped
    assert whole.startswith(out)
    assert not any(text in out for text in stop)
    assert any(whole[len(out) :].startswith(text) for text in stop)


# The names of control tokens are tokens of their own, and never part of an answer.
@given(text=st.text(max_size=40).filter(lambda text: "<|" not in text))
def test_bytes_of_any_text_come_out_as_that_text(text: str) -> None:
    """With one token a byte, characters of several bytes are never broken."""
    tokenizer = tiny_backbone().tokenizer
    assembler = Detokenizer(tokenizer, ())
    deltas = [assembler.push(token) for token in tokenizer.encode(text)]

    assert "".join(deltas) + assembler.finish() == text
    assert not any("\ufffd" in delta for delta in deltas if "\ufffd" not in text)


def test_text_that_cannot_stop_is_returned_at_once() -> None:
    """A beginning of a stop string is kept back only where the string counts."""
    buffer = StopStringBuffer(["ab"])

    assert buffer.push("xa", can_stop=False) == "xa"
    assert buffer.push("bab") == "b"
    assert buffer.stopped


def sentencepiece() -> Any:
    """Return a tokenizer that marks spaces and spells bytes, as Llama 2's does."""
    vocabulary = {"<unk>": 0, "\u2581a": 1, "a": 2, "\u00e9": 3, "<0xF0>": 4, "<0x9F>": 5}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    return tokenizer


def test_bytes_of_sentencepiece_tokens_are_exact() -> None:
    """Words that differ by their space differ, and parts of a character are their byte."""
    token_bytes = TokenBytes(sentencepiece())

    assert [token_bytes(token) for token in range(1, 7)] == [
        *(b" a", b"a", "\u00e9".encode(), b"\xf0", b"\x9f"),
        b"</s>",
    ]


def test_tokens_outside_the_vocabulary_have_no_bytes() -> None:
    """A model may have more output rows than its tokenizer has tokens."""
    tokenizer = tiny_backbone().tokenizer

    assert TokenBytes(tokenizer)(len(tokenizer) + 5) == b""
    assert TokenBytes(tokenizer)(tokenizer.eos_token_id) == b"<|im_end|>"
