"""Schema of artifact cards."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from bem import card_schema
from bem.errors import ArtifactFormatError


@dataclass(frozen=True)
class Sample:
    """Card with one field of each kind."""

    size: int = field(metadata=card_schema.integer(1, 8))
    factor: float = field(metadata=card_schema.number(0, 4))
    label: str = field(metadata=card_schema.text(5, re.compile("[a-z]+")))
    places: list[int] = field(metadata=card_schema.ascending_integers(0, 9))
    kinds: list[str] = field(metadata=card_schema.distinct_names(("up", "down")))
    exact: bool = field(metadata=card_schema.boolean())
    figures: dict[str, Any] = field(metadata=card_schema.json_object())


GOOD: dict[str, Any] = {
    "size": 3,
    "factor": 2,
    "label": "ab",
    "places": [0, 4],
    "kinds": ["down"],
    "exact": False,
    "figures": {"f1": 0.5},
}


def test_values_within_their_ranges_pass() -> None:
    """An integer is a number too; limits are included where they are stated."""
    card_schema.check_fields(Sample, GOOD, "card")
    card_schema.check_fields(Sample, GOOD | {"size": 8, "factor": 4.0}, "card")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", 9),
        ("size", "3"),
        ("size", 3.0),
        ("size", True),
        ("factor", 0),
        ("factor", 4.1),
        ("factor", "2"),
        ("factor", float("nan")),
        ("factor", float("inf")),
        ("factor", None),
        ("label", "AB"),
        ("label", "abcdef"),
        ("label", 5),
        ("places", []),
        ("places", [4, 0]),
        ("places", [1, 1]),
        ("places", [10]),
        ("places", ["1"]),
        ("places", "12"),
        ("kinds", ["left"]),
        ("kinds", ["up", "up"]),
        ("kinds", [["up"]]),
        ("kinds", []),
        ("exact", "no"),
        ("exact", 0),
        ("figures", []),
        ("figures", {"f1": float("nan")}),
    ],
)
def test_value_out_of_its_range_is_named(name: str, value: Any) -> None:
    """The error names the file and the field."""
    with pytest.raises(ArtifactFormatError, match=rf"^x/card\.json: {name}: "):
        card_schema.check_fields(Sample, GOOD | {name: value}, "x/card.json")


def test_fields_are_exactly_those_of_the_card() -> None:
    """A missing and an unknown field are both named."""
    values = {key: value for key, value in GOOD.items() if key != "size"} | {"colour": "red"}
    with pytest.raises(ArtifactFormatError, match=r"missing \['size'\], unknown \['colour'\]"):
        card_schema.check_fields(Sample, values, "card")


@pytest.mark.parametrize(
    "content",
    [
        b'{"scale": NaN}',
        b'{"scale": -Infinity}',
        b'{"scale": 1, "scale": 2}',
        b"\xff\xfe",
        b"[1]",
        b"",
        b"[" * 100_000,
    ],
)
def test_json_is_read_strictly(content: bytes) -> None:
    """No NaN, no repeated key, no depth that ends the interpreter."""
    with pytest.raises(ArtifactFormatError, match=r"^card\.json is no"):
        card_schema.parse_object(content, "card.json")


@dataclass(frozen=True)
class Extended(Sample):
    """Card with a field that older cards do not have."""

    variant: str = field(
        default="plain",
        metadata=card_schema.optional(card_schema.text(8, re.compile("plain|film"))),
    )


def test_an_optional_field_may_be_missing_and_is_checked() -> None:
    """Older cards pass; a value that this version does not know is named."""
    card_schema.check_fields(Extended, GOOD, "card")
    card_schema.check_fields(Extended, GOOD | {"variant": "film"}, "card")
    with pytest.raises(ArtifactFormatError, match="variant: 'newer'"):
        card_schema.check_fields(Extended, GOOD | {"variant": "newer"}, "card")
