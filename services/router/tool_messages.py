"""Tool messages: tools and calls of a conversation for the chat template and the sampler."""

import json
import re
from collections.abc import Iterator
from typing import Any

from bem.engine import OutputForm
from bem.engine.tool_grammar import OPEN, ToolSignature, tool_form
from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2 as pb

MAX_TOOLS, MAX_CALLS = 128, 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolTemplate:
    """Tools as one model's chat template writes them.

    Args:
        tokenizer: Tokenizer of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        template = tokenizer.chat_template
        spelled = template.values() if isinstance(template, dict) else [template or ""]
        self._served = any(OPEN in one and "tools" in one for one in spelled)
        self._control = [one.content for one in tokenizer.added_tokens_decoder.values()]

    def check(self, chat: pb.ChatPrompt) -> None:
        """Check tools, calls and results of a conversation.

        Raises:
            InvalidRequestError: The template has no tools, or one of them is malformed.
        """
        if not self._served and (field := _tool_field(chat)):
            raise InvalidRequestError(
                field,
                f"this model's chat template has no tools in the form of {OPEN}; leave tools, "
                "calls and their results out, or use a model whose template has them",
            )
        if len(chat.tools) > MAX_TOOLS:
            raise InvalidRequestError(
                "chat.tools", f"{len(chat.tools)} tools; at most {MAX_TOOLS} are allowed"
            )
        if not chat.tools and (chat.tool_choice == pb.TOOL_CHOICE_REQUIRED or chat.tool_name):
            raise InvalidRequestError("chat.tool_choice", "asks for a call; give tools")
        names = [tool.name for tool in chat.tools]
        for index, name in enumerate(names):
            if not _NAME.fullmatch(name) or name in names[:index]:
                raise InvalidRequestError(
                    f"chat.tools[{index}].name",
                    f"{name[:64]!r} occurs twice or is no name of 1 to 64 letters, digits, "
                    "underscores and hyphens",
                )
        if chat.tool_name and chat.tool_name not in names:
            raise InvalidRequestError(
                "chat.tool_choice", f"{chat.tool_name[:64]!r} is no tool; given: {', '.join(names)}"
            )

    def tools(self, chat: pb.ChatPrompt) -> list[dict[str, Any]] | None:
        """Return the tools as the template reads them; None for none."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": self._parameters(tool, index) or {"type": "object"},
                },
            }
            for index, tool in enumerate(chat.tools)
        ] or None

    def message(self, message: pb.ChatMessage, index: int) -> dict[str, Any]:
        """Return a message as the template reads it.

        Args:
            message: Message as received.
            index: Number of the message in its conversation.

        Raises:
            InvalidRequestError: A call is malformed.
        """
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            turn["tool_calls"] = [
                self._call(call, f"chat.messages[{index}].tool_calls[{place}]")
                for place, call in enumerate(message.tool_calls)
            ]
        return turn

    def form(self, chat: pb.ChatPrompt) -> OutputForm | None:
        """Return the form of the answer; None if there are no tools."""
        signatures = [
            ToolSignature(tool.name, self._parameters(tool, index))
            for index, tool in enumerate(chat.tools)
            if chat.tool_name in ("", tool.name)
        ]
        if not signatures:
            return None
        return tool_form(
            signatures,
            required=bool(chat.tool_name) or chat.tool_choice == pb.TOOL_CHOICE_REQUIRED,
            parallel=not chat.HasField("parallel_tool_calls") or chat.parallel_tool_calls,
        )

    def _parameters(self, tool: pb.Tool, index: int) -> dict[str, Any] | None:
        if not tool.parameters:
            return None
        field = f"chat.tools[{index}].parameters"
        parameters = self._object(tool.parameters, field)
        if parameters.get("type", "object") != "object":
            raise InvalidRequestError(
                field, "has another type; arguments are an object: set type to object"
            )
        return {**parameters, "type": "object"}

    def _call(self, call: pb.ToolCall, path: str) -> dict[str, Any]:
        if not _NAME.fullmatch(call.name):
            raise InvalidRequestError(f"{path}.name", f"{call.name[:64]!r} is no name of a tool")
        arguments = self._object(call.arguments or "{}", f"{path}.arguments")
        function = {"name": call.name, "arguments": arguments}
        return {"type": "function", "id": call.id, "function": function}

    def _object(self, text: str, field: str) -> dict[str, Any]:
        """Return a JSON object; the encoder spells control tokens in its values, not in names."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise InvalidRequestError(field, "is not valid JSON") from err
        if not isinstance(value, dict):
            raise InvalidRequestError(field, "is no JSON object; write one")
        for name in _names(value):
            if any(token in name for token in self._control):
                raise InvalidRequestError(
                    field, "a member's name has a control token of the model; rename it"
                )
        return value


def _names(value: Any) -> Iterator[str]:
    """Yield the names of all members, at any depth."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield name
            yield from _names(member)
    elif isinstance(value, list):
        for one in value:
            yield from _names(one)


def _tool_field(chat: pb.ChatPrompt) -> str:
    """Return the first field of a conversation that needs tools; empty for none."""
    if chat.tools:
        return "chat.tools"
    for index, message in enumerate(chat.messages):
        if message.role == "tool":
            return f"chat.messages[{index}].role"
        if message.tool_calls:
            return f"chat.messages[{index}].tool_calls"
    return ""
