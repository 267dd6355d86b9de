"""Ids of answers."""

import pytest
from bem_fleet.services.online.answer_ids import answer_id, parse_answer_id
from fleet.errors import InvalidArgumentError

from tests.unit.services.online.hosts import FAMILY


@pytest.mark.parametrize("condition", [FAMILY, ""])
def test_version_and_condition_are_read_back(condition: str) -> None:
    """An id holds what explains its answer, and two answers have two ids."""
    first, second = answer_id(7, condition), answer_id(7, condition)

    assert parse_answer_id(first) == (7, condition)
    assert first != second


def test_other_texts_are_refused() -> None:
    """The error names the field and what to send."""
    with pytest.raises(InvalidArgumentError, match="answer_id: 'chatcmpl-1' is no id"):
        parse_answer_id("chatcmpl-1")
