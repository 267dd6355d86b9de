"""Tests of feedback examples."""

from dataclasses import replace

import pytest
from bem.errors import DataFormatError
from bem.online.feedback import FeedbackExample, parse_feedback

EXAMPLE = FeedbackExample("e1", "weather", "u1", (1, 2), (3,), weight=0.5, hinted=(9, 1, 2))


def test_example_survives_its_row() -> None:
    """A row read back is the same example."""
    assert parse_feedback(EXAMPLE.row()) == EXAMPLE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"event": ""}, "event"),
        ({"kind": "meh"}, "kind: 'meh'"),
        ({"weight": 0.0}, "weight: 0.0"),
        ({"weight": float("nan")}, "weight: nan"),
        ({"reply": ()}, "reply"),
        ({"hinted": (1,) * 9000}, "hinted"),
    ],
)
def test_field_out_of_range_is_named(change: dict[str, object], named: str) -> None:
    """Each field says what is wrong with it."""
    with pytest.raises(DataFormatError, match=named):
        replace(EXAMPLE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [None, {}, {**EXAMPLE.row(), "more": 1}, {"prompt": "x"}])
def test_row_that_is_no_feedback_is_refused(row: object) -> None:
    """Missing and unknown fields are errors."""
    with pytest.raises(DataFormatError, match="is no feedback"):
        parse_feedback(row)
