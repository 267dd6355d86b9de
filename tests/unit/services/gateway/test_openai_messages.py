"""Message schema: answers that clients send back, empty texts, and paths of errors."""

from typing import Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.openai_schema import ChatRequest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError


def parse(*messages: dict[str, Any]) -> ChatRequest:
    """Parse a body with these messages."""
    return ChatRequest.model_validate({"model": "m", "messages": list(messages)})


def error_of(*messages: Any) -> dict[str, Any]:
    """Return the error object for a body with these messages."""
    with pytest.raises(ValidationError) as caught:
        parse(*messages)
    return dict(from_validation(caught.value.errors()).body)


ANSWERS: list[dict[str, Any]] = [
    ChatCompletionMessage(role="assistant", content="Bob.").model_dump(),
    ChatCompletionMessage(role="assistant", content="Bob.", annotations=[]).model_dump(),
    {"role": "assistant", "content": "Bob.", "tool_calls": [], "audio": None, "id": "msg_1"},
    {"role": "assistant", "content": "Bob.", "reasoning_content": "He is tall.", "reasoning": None},
    {"role": "assistant", "content": "Bob.", "provider_specific_fields": {"x": 1}, "images": None},
    {"role": "assistant", "content": [{"type": "text", "text": "Bob."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Bob.", "refusal": None}]},
    {"role": "assistant", "content": None, "refusal": "Bob."},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "Bob."}]},
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_taken_back(answer: dict[str, Any]) -> None:
    """Each form in which a client keeps an answer has the answer's text."""
    parsed = parse({"role": "user", "content": "Who?"}, answer)

    assert [message.text for message in parsed.messages] == ["Who?", "Bob."]


@pytest.mark.parametrize("empty", ["", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_empty_messages_are_taken(role: str, empty: Any) -> None:
    """An empty text is a text; an answer may have none."""
    parsed = parse({"role": role, "content": empty}, {"role": "user", "content": "hi"})

    assert [message.text for message in parsed.messages] == ["", "hi"]


def test_conversation_without_any_text_is_refused() -> None:
    """There is nothing to answer."""
    error = error_of(
        {"role": "system", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "user", "content": []},
    )

    assert error["param"] == "messages"
    assert "no message has text" in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "critic", "content": "x"}, "messages.1.role"),
        ({"role": "tool", "content": "x"}, "messages.1"),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, "messages.1"),
        ({"role": "user", "content": None}, "messages.1.content"),
        ({"role": "user"}, "messages.1.content"),
        ({"role": "user", "content": 5}, "messages.1.content"),
        ({"role": "user", "content": {"text": "x"}}, "messages.1.content"),
        ({"role": "user", "content": ["x"]}, "messages.1.content.0"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.1.content.0"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.1.content.0.text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages.1.content.0.type",
        ),
        ({"role": "user", "content": "x", "mood": "good"}, "messages.1.mood"),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            "messages.1.tool_calls.0.function",
        ),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            "messages.1.function_call",
        ),
        ({"role": "assistant", "content": None, "audio": {"id": "1"}}, "messages.1.audio"),
    ],
)
def test_errors_have_the_callers_own_path(message: dict[str, Any], param: str) -> None:
    """No name of a class or of a union member is part of the path."""
    error = error_of({"role": "user", "content": "hi"}, message)

    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
