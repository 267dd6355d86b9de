"""Typed operations of compositional questions."""

import pytest
from bem_fleet.data.operations import (
    OPERATIONS,
    REPLY_FORMATS,
    Value,
    format_value,
    parse_value,
)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("reverse_words", "two old dogs", "dogs old two"),
        ("count_letters", "a b2c", 3),
        ("last_digit", 1984, 4),
        ("opposite", True, False),
        ("alphabetical_first", ("pear", "Apple"), "Apple"),
        ("longer", ("abc", "xyz"), "abc"),
        ("same_initial", ("Paris", "peru"), True),
        ("difference", (3, 10), 7),
        ("agree", (True, False), False),
    ],
)
def test_operation_computes_what_its_instruction_says(
    name: str, value: Value, wanted: Value
) -> None:
    """Each operation gives the value that a reader of its instruction would write."""
    assert OPERATIONS[name].apply(value) == wanted


def test_values_survive_parsing_and_formatting() -> None:
    """A fact's answer parses to a typed value that formats to the same text."""
    for kind, text in (("number", "42"), ("flag", "yes"), ("flag", "no"), ("text", "Ada")):
        assert format_value(parse_value(kind, text)) == text
    assert all("{}" in template for _, template in REPLY_FORMATS.values())
