"""Printable ASCII comes back as it was, other text as its ASCII form, and id 0 is never used."""

import numpy as np
from bem_fleet.data.character_text import ALPHABET, decode_characters, encode_characters
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_ascii_round_trips(text: str) -> None:
    """Every printable character has an id of its own."""
    assert decode_characters(encode_characters(text)) == text


@given(st.text(max_size=60))
def test_ids_are_of_the_alphabet(text: str) -> None:
    """Any text gives ids from 1 to 95, and encoding is idempotent."""
    ids = encode_characters(text)

    assert all(0 < one < ALPHABET for one in ids)
    assert np.array_equal(encode_characters(decode_characters(ids)), ids)


def test_signs_and_accents_become_ascii() -> None:
    """Quotes, dashes, accents and line breaks have a plain form; other scripts are left out."""
    quoted = "\N{LEFT DOUBLE QUOTATION MARK}Caf\N{LATIN SMALL LETTER E WITH ACUTE}!"
    rest = "\n \N{EN DASH} it\N{RIGHT SINGLE QUOTATION MARK}s\N{HORIZONTAL ELLIPSIS} \u65e5"

    assert decode_characters(encode_characters(quoted + rest)) == "\"Cafe! - it's..."
    assert decode_characters(np.array([0, 34])) == "\N{REPLACEMENT CHARACTER}A"
