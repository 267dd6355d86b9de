"""Tests of the detokenizer: whole characters, and no part of a stop string."""

from bem.engine.detokenizer import Detokenizer, StopStringBuffer
from bem.testing import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st

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
