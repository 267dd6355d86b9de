"""Tests of step prompts and typed values."""

import pytest
from bem.errors import InvalidRequestError
from bem.policy.actions import MacroAction
from bem.policy.step_prompts import (
    PlanInput,
    TypedValue,
    parse_value,
    split_input,
    split_question,
    step_prompt,
)

QUESTION = "Take this: Who won? (1) Where? Then join them, then count. Reply only so, as JSON."


def test_a_question_is_split_into_its_parts() -> None:
    """Operations begin with Then, formats with Reply."""
    parts = split_question(QUESTION)

    assert parts.retrieval == "Take this: Who won? (1) Where?"
    assert parts.operation == "Then join them, then count."
    assert parts.reply_format == "Reply only so, as JSON."


def test_a_question_without_parts_goes_to_every_step() -> None:
    """Free text is not cut."""
    parts = split_question("Who won?")

    assert parts.retrieval == parts.operation == parts.reply_format == "Who won?"


def test_the_last_paragraph_is_the_question() -> None:
    """The text before it is the passages; earlier messages are the history."""
    history = {"role": "system", "content": "Be short."}

    found = split_input([history, {"role": "user", "content": "A.\n\nB.\n\nWho?"}])

    assert found == PlanInput("A.\n\nB.", "Who?", (history,))


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "x"}]])
def test_a_plan_answers_a_user(messages: list[dict[str, str]]) -> None:
    """A conversation that ends otherwise is refused."""
    with pytest.raises(InvalidRequestError, match="user message"):
        split_input(messages)


@pytest.mark.parametrize(
    ("task", "text", "wanted"),
    [
        ("retrieve", " 12 | 7 \nbecause", TypedValue("number", ("12", "7"))),
        ("retrieve", "New York", TypedValue("text", ("New York",))),
        ("reason", "3; 6; 12", TypedValue("number", ("12",))),
        ("reason", "yes", TypedValue("flag", ("yes",))),
        ("retrieve", "a; b", TypedValue("text", ("a; b",))),
    ],
)
def test_values_are_typed(task: str, text: str, wanted: TypedValue) -> None:
    """Only the first line counts, and of several results the last."""
    assert parse_value(task, text) == wanted


@pytest.mark.parametrize(("task", "text"), [("retrieve", ""), ("retrieve", "a |"), ("reason", ";")])
def test_an_empty_value_is_none(task: str, text: str) -> None:
    """A step that says nothing passes nothing on."""
    assert parse_value(task, text) is None


def test_steps_with_passages_share_their_beginning() -> None:
    """The shared messages are a prefix of the step's own."""
    request = PlanInput("The sea is deep.", QUESTION)

    both = step_prompt(MacroAction("reason", "both"), request, TypedValue("number", ("1", "2")))
    alone = step_prompt(MacroAction("general", "values"), request, TypedValue("number", ("1",)))

    assert both.messages[-1]["content"].startswith(both.shared[-1]["content"])
    assert both.messages[-1]["content"].endswith("Values: 1 | 2\nThen join them, then count.")
    assert not alone.shared
    assert alone.messages[-1]["content"].endswith("Reply only so, as JSON.")


def test_a_request_without_passages_has_nothing_to_share() -> None:
    """The question alone is the prompt."""
    prompt = step_prompt(MacroAction("general"), PlanInput("", "Who won?"), None)

    assert [one["content"] for one in prompt.messages] == ["Who won?"]
    assert not prompt.shared
