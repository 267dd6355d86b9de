"""Input items of the Responses API as the messages of a chat."""

from typing import Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.responses_input import InputItem, Turn, conversation
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[InputItem])
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"}


def turns(items: list[dict[str, Any]], earlier: list[Turn] | None = None) -> list[Turn]:
    """Return the messages of a chat."""
    return conversation(earlier or [], ITEMS.validate_python(items))


def output(call_id: str) -> dict[str, Any]:
    """Return the output of a call."""
    return {"type": "function_call_output", "call_id": call_id, "output": "sunny"}


def test_answers_are_taken_as_clients_send_them_back() -> None:
    """Texts, parts and the items of an output are turns of one conversation."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "phase": None,
        "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
    }
    asked = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    found = turns([{"role": "user", "content": asked}, answer, {"role": "user", "content": ""}])

    assert conversation([], "hi") == [{"role": "user", "content": "hi"}]
    assert [(one["role"], one["content"]) for one in found] == [
        ("user", "ab"),
        ("assistant", "hello"),
        ("user", ""),
    ]


def test_calls_join_the_answer_that_they_belong_to() -> None:
    """Text and calls are neighbouring items of one answer; outputs follow."""
    text = {"role": "assistant", "content": "let me see"}
    second = {**CALL, "call_id": "c2"}
    found = turns([{"role": "user", "content": "hi"}, text, CALL, second, output("c1")])

    assert [one["role"] for one in found] == ["user", "assistant", "tool"]
    assert [call["id"] for call in found[1]["tool_calls"]] == ["c1", "c2"]
    assert found[2] == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    earlier = [{"role": "assistant", "content": "before"}]
    alone = turns([CALL], earlier)
    assert alone[0] == earlier[0]
    assert alone[1]["content"] is None


def test_an_output_needs_its_call() -> None:
    """In the input or in the conversation that it continues."""
    earlier = turns([CALL])
    assert turns([output("c1")], earlier)[-1]["role"] == "tool"
    with pytest.raises(RequestValidationError) as caught:
        turns([{"role": "user", "content": "hi"}, output("c2")], earlier)

    assert from_validation(caught.value.errors()).body["param"] == "input.1.call_id"
