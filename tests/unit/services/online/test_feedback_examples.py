"""Examples of events."""

from typing import Any

import pytest
from bem.testing import tiny_backbone
from bem_fleet.feedback.event_store import Event
from bem_fleet.services.online.feedback_examples import ExampleEncoder

from tests.unit.services.online.hosts import FAMILY

BACKBONE = tiny_backbone()


def event(**content: Any) -> Event:
    """Return an event of a user whose trust is a half."""
    kept = dict.fromkeys(("edit", "correction", "rating", "answer", "prompt"), "")
    return Event("1-0", "u", 0.5, {**kept, "prompt": "a?", **content})


@pytest.mark.parametrize(
    ("content", "kind", "reply"),
    [
        ({"correction": "b"}, "correction", "b"),
        ({"correction": "b", "edit": "c"}, "correction", "c"),
        ({"rating": "up", "answer": "d"}, "good", "d"),
        ({"rating": "down", "answer": "d"}, "bad", "d"),
    ],
)
def test_most_telling_part_is_taught(content: dict[str, str], kind: str, reply: str) -> None:
    """An edit counts before a correction; a rating is of the answer; a reply ends its turn."""
    encoder = ExampleEncoder(BACKBONE, 256)
    made = encoder.example(event(**content), FAMILY)

    assert made is not None
    assert (made.kind, made.weight, made.condition) == (kind, 1.0, FAMILY)
    assert made.reply == encoder.reply(reply)
    assert made.reply[-1] == min(BACKBONE.end_token_ids)
    assert made.prompt == encoder.prompt("a?")


def test_hints_have_the_correction_in_the_prompt() -> None:
    """Only corrections have one, and only if it is asked for."""
    encoder = ExampleEncoder(BACKBONE, 256, hints=True)
    made = encoder.example(event(correction="b"), FAMILY)
    rated = encoder.example(event(rating="up", answer="d"), FAMILY)

    assert made is not None
    assert made.hinted == encoder.prompt("a?\n\nThe right answer is: b")
    assert rated is not None
    assert not rated.hinted


@pytest.mark.parametrize(
    "content", [{}, {"rating": "up"}, {"correction": "b", "prompt": " "}, {"correction": "b" * 300}]
)
def test_event_that_teaches_nothing_is_left_out(content: dict[str, str]) -> None:
    """Nothing to teach, no prompt, or too many tokens."""
    assert ExampleEncoder(BACKBONE, 256).example(event(**content), FAMILY) is None
