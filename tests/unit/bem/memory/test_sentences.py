"""Tests of the sentence splitter."""

from itertools import pairwise

from bem.memory.sentences import MAX_SENTENCE_CHARS, SentenceSplitter
from hypothesis import given
from hypothesis import strategies as st

TEXT = 'Mr. Fox saw J. Hen. "Run!" she said.  Then\nhe left'


def split(text: str, cuts: list[int]) -> list[tuple[str, int]]:
    """Return texts and offsets of the sentences of a text that arrives in parts."""
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    splitter = SentenceSplitter()
    found = []
    for begin, end in pairwise(edges):
        found += splitter.feed(text[begin:end])
    found += splitter.flush()
    return [(one.text, one.begin) for one in found]


def test_sentences_have_offsets_and_keep_abbreviations() -> None:
    """A title and an initial end no sentence; a mark, a quotation and a line break do."""
    found = split(TEXT, [])

    assert [text.strip() for text, _ in found] == [
        "Mr. Fox saw J. Hen.",
        '"Run!"',
        "she said.",
        "Then",
        "he left",
    ]
    assert all(TEXT[begin : begin + len(text)] == text for text, begin in found)


@given(st.text(alphabet='aB.!\n "M', max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_parts_do_not_change_the_sentences(text: str, cuts: list[int]) -> None:
    """However a text is divided, its sentences are the same, and only white space is left out."""
    whole = split(text, [])

    assert split(text, cuts) == whole
    assert "".join(one for one, _ in whole).split() == text.split()


def test_text_without_an_end_is_cut() -> None:
    """A sentence has a largest length, whatever the text."""
    found = split("x" * (2 * MAX_SENTENCE_CHARS + 5), [])

    assert [len(text) for text, _ in found] == [MAX_SENTENCE_CHARS, MAX_SENTENCE_CHARS, 5]
