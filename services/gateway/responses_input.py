"""Input items of OpenAI's Responses API: messages, function calls and their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from bem_fleet.services.gateway.openai_fields import OpenAIBody
from bem_fleet.services.gateway.openai_tools import ToolName
from fastapi.exceptions import RequestValidationError
from pydantic import Discriminator, Field, Tag, model_validator

Turn = dict[str, Any]
"""Message of a chat."""
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class InputPart(OpenAIBody):
    """Text part of an input item, or of an answer that a client sends back."""

    type: Literal["input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> InputPart:
        if (self.refusal if self.type == "refusal" else self.text) is None:
            name = "refusal" if self.type == "refusal" else "text"
            raise ValueError(f"a part of the type {self.type!r} needs the member {name!r}")
        return self


class InputMessage(OpenAIBody):
    """One message of the input; an answer is taken as a client received it."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class InputCall(OpenAIBody):
    """Function call of an answer that a client sends back."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: str
    id: str | None = None
    status: str | None = None
    caller: Any = None
    namespace: Any = None
    parsed_arguments: Any = None


class InputCallOutput(OpenAIBody):
    """Output of a function that an answer called."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | list[InputPart]
    id: str | None = None
    status: str | None = None
    caller: Any = None


def _type_of(item: Any) -> str:
    """Return the type of an item; one without a type is a message."""
    found = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return found if isinstance(found, str) else "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")],
    Discriminator(
        _type_of,
        custom_error_type="unknown_item",
        custom_error_message=(
            "unknown type of input item; it is message, function_call or function_call_output"
        ),
    ),
]


def conversation(
    earlier: Sequence[Turn], given: str | Sequence[InputMessage | InputCall | InputCallOutput]
) -> list[Turn]:
    """Return the messages of a chat that the input continues.

    Args:
        earlier: Messages before the input.
        given: Input of a request.

    Raises:
        RequestValidationError: An output belongs to no call.
    """
    turns = [dict(turn) for turn in earlier]
    if isinstance(given, str):
        return [*turns, {"role": "user", "content": given}]
    begin = len(turns)
    for place, item in enumerate(given):
        if isinstance(item, InputMessage):
            turns.append({"role": item.role, "content": _text(item.content)})
        elif isinstance(item, InputCall):
            _add_call(turns, begin, item)
        else:
            _check_call(turns, place, item)
            output = _text(item.output)
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
    return turns


def _text(content: str | Iterable[InputPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text or part.refusal or "" for part in content)


def _add_call(turns: list[Turn], begin: int, item: InputCall) -> None:
    """Add a call to the answer that it belongs to: its text and calls are neighbouring items."""
    call = {
        "id": item.call_id,
        "type": "function",
        "function": {"name": item.name, "arguments": item.arguments},
    }
    if len(turns) == begin or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None, "tool_calls": []})
    turns[-1].setdefault("tool_calls", []).append(call)


def _check_call(turns: Iterable[Turn], place: int, item: InputCallOutput) -> None:
    known = {call["id"] for turn in turns for call in turn.get("tool_calls") or ()}
    if item.call_id in known:
        return
    message = (
        f"no function call before it has the id {item.call_id!r}; send the call, or the "
        "previous_response_id of its answer"
    )
    where = ("body", "input", place, "call_id")
    raise RequestValidationError([{"type": "value_error", "loc": where, "msg": message}])
