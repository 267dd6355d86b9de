"""Prefilter: candidates for the slow scorers, and invalid text."""

import pytest
from bem_fleet.guard.scoring.prefilter import invalid_text_reason, may_contain_sensitive_data
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "text",
    [
        "jane@example.com",
        "jane＠example.com",  # noqa: RUF001 - full width
        "call 212-555-0187",
        "２１２-５５５-０１８７",  # noqa: RUF001 - full width
        "21\u200b2 555 01\u200b87",
        "4111 1111 1111 1111",
        "10.0.0.12",
        "2001:db8:0:0:0:0:0:1",
        "GB82 WEST 1234 5698 7654 32",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_sensitive_data_is_a_candidate(text: str) -> None:
    """Every entity type of the detector passes the prefilter."""
    assert may_contain_sensitive_data(f"so {text} it is")


@pytest.mark.parametrize("text", ["In 1995 there were 12 boats.", "It costs $5.", "a/b", ""])
def test_prose_is_no_candidate(text: str) -> None:
    """Years, prices and small numbers do not need the slow scorers."""
    assert not may_contain_sensitive_data(text)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]), max_size=200))
def test_ordinary_text_is_valid(text: str) -> None:
    """Letters, numbers, punctuation and spaces of every script are valid."""
    assert invalid_text_reason(text) == ""


def test_stacked_marks_and_surrogates_are_invalid_and_control_characters_are_not() -> None:
    """Pasted terminal output is text; the reason names what is wrong."""
    assert invalid_text_reason("bell \x07, \x1b[1mbold\x1b[0m, \x00 and \x9b") == ""
    assert invalid_text_reason("\u00e9 \x07\x9b31m") == ""
    assert "U+D800" in invalid_text_reason("\ud800")
    assert "marks" in invalid_text_reason("a" + "\u0301" * 9)
    assert invalid_text_reason("a\tb\r\nc") == ""
