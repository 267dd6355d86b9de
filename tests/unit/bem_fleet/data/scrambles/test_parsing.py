"""Parses have tags, heads and sentences; very long texts are refused."""

import pytest
from bem_fleet.data.scrambles.parsing import MAX_PARSED_CHARS, parse

pytestmark = pytest.mark.slow  # loads the parser


def test_parse_has_tags_heads_and_sentences() -> None:
    """The object depends on the verb, and two sentences are two."""
    doc = parse("She ate bread. He slept.")

    assert [sentence.root.text for sentence in doc.sents] == ["ate", "slept"]
    assert (doc[2].tag_, doc[2].head.text) == ("NN", "ate")


def test_long_text_is_refused() -> None:
    """The limit is named."""
    with pytest.raises(ValueError, match=f"at most {MAX_PARSED_CHARS}, split it"):
        parse("a" * (MAX_PARSED_CHARS + 1))
