"""Output items of OpenAI's Responses API: the message and the function calls of an answer."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bem_fleet.services.gateway.tool_calls import ToolCallReader

_ID_BYTES = 24
Event = tuple[str, dict[str, Any]]
"""Kind of a stream event, and its members."""


@dataclass
class MessageItem:
    """Text of an answer.

    Attributes:
        identifier: Id of the item.
        text: Text so far.
        logprobs: Log-probabilities of its tokens.
    """

    identifier: str
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def object(self, status: str) -> dict[str, Any]:
        """Return the item as it is so far."""
        content = [] if status == "in_progress" else [self._part()]
        return {
            "id": self.identifier,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def opening(self) -> Iterator[Event]:
        """Yield the events behind that of the item, before its first delta."""
        yield "response.content_part.added", {"content_index": 0, "part": self._part()}

    def delta(self, text: str, logprobs: list[dict[str, Any]]) -> Event:
        """Take the next text; return its event."""
        self.text += text
        self.logprobs += logprobs
        members = {"content_index": 0, "delta": text, "logprobs": logprobs}
        return "response.output_text.delta", members

    def closing(self) -> Iterator[Event]:
        """Yield the events before the item is done."""
        done = {"content_index": 0, "text": self.text, "logprobs": list(self.logprobs)}
        yield "response.output_text.done", done
        yield "response.content_part.done", {"content_index": 0, "part": self._part()}

    def _part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": list(self.logprobs),
        }


@dataclass
class CallItem:
    """Call of a function.

    Attributes:
        identifier: Id of the item.
        call_id: Id that the output of the call names.
        name: Name of the function.
        arguments: JSON text so far.
    """

    identifier: str
    call_id: str
    name: str
    arguments: str = ""

    def object(self, status: str) -> dict[str, Any]:
        """Return the item as it is so far."""
        return {
            "id": self.identifier,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }

    def opening(self) -> Iterator[Event]:
        """Yield the events behind that of the item, before its first delta."""
        yield from ()

    def delta(self, text: str) -> Event:
        """Take the next piece of the arguments; return its event."""
        self.arguments += text
        return "response.function_call_arguments.delta", {"delta": text}

    def closing(self) -> Iterator[Event]:
        """Yield the events before the item is done."""
        done = {"name": self.name, "arguments": self.arguments}
        yield "response.function_call_arguments.done", done


class OutputItems:
    """Items of one answer, in order; the last one is open until the answer ends.

    Args:
        reads_calls: Whether the text may contain calls of functions.
        required: Whether the answer is calls alone.
    """

    def __init__(self, *, reads_calls: bool, required: bool = False) -> None:
        self._reader = ToolCallReader(required=required) if reads_calls else None
        self._items: list[MessageItem | CallItem] = []

    @property
    def text(self) -> str:
        """Text of all messages."""
        return "".join(one.text for one in self._items if isinstance(one, MessageItem))

    def turn(self) -> dict[str, Any]:
        """Return the answer as a message of a chat."""
        calls = [
            {
                "id": one.call_id,
                "type": "function",
                "function": {"name": one.name, "arguments": one.arguments},
            }
            for one in self._items
            if isinstance(one, CallItem)
        ]
        message = {"role": "assistant", "content": self.text or ("" if not calls else None)}
        return {**message, "tool_calls": calls} if calls else message

    def objects(self, status: str) -> list[dict[str, Any]]:
        """Return the items; ``status`` is that of the last one, the others are complete."""
        *before, last = self._items or [_message()]
        return [
            *(one.object("completed") for one in before),
            last.object(self._own_status(last, status)),
        ]

    def add(self, text: str, logprobs: list[dict[str, Any]], *, ended: bool) -> Iterator[Event]:
        """Take the next text of the answer; yield the events that it causes.

        Args:
            text: Text that the answer goes on with.
            logprobs: Log-probabilities of its tokens; those of calls are not reported.
            ended: Whether the answer ends there.
        """
        parts: dict[str, Any] = {"content": text}
        if self._reader is not None:
            parts = self._reader.read(text, ended=ended)
        if content := parts.get("content"):
            yield from self._text(content, logprobs)
        for call in parts.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                yield from self._open(CallItem(_identifier("fc"), call["id"], function["name"]))
            if (item := self._items[-1]) and isinstance(item, CallItem) and function["arguments"]:
                yield self._placed(item.delta(function["arguments"]))

    def open_message(self) -> Iterator[Event]:
        """Begin with a message, whose text is still to come; yield its events."""
        yield from self._open(_message())

    def close(self, status: str) -> Iterator[Event]:
        """End the open item; yield its events."""
        if not self._items:
            yield from self.open_message()
        item = self._items[-1]
        status = self._own_status(item, status)
        # Arguments that are cut are not done: a client could run what is no call.
        if isinstance(item, MessageItem) or status == "completed":
            for event in item.closing():
                yield self._placed(event)
        yield (
            "response.output_item.done",
            {"output_index": len(self._items) - 1, "item": item.object(status)},
        )

    def _own_status(self, item: MessageItem | CallItem, status: str) -> str:
        """Return the status of the last item: a call is complete with its arguments."""
        if isinstance(item, CallItem) and self._reader is not None and not self._reader.is_open:
            return "completed"
        return status

    def _text(self, content: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if not self._items or not isinstance(self._items[-1], MessageItem):
            yield from self.open_message()
        item = self._items[-1]
        if isinstance(item, MessageItem):
            yield self._placed(item.delta(content, logprobs))

    def _open(self, item: MessageItem | CallItem) -> Iterator[Event]:
        if self._items:
            yield from self.close("completed")
        self._items.append(item)
        added = {"output_index": len(self._items) - 1, "item": item.object("in_progress")}
        yield "response.output_item.added", added
        for event in item.opening():
            yield self._placed(event)

    def _placed(self, event: Event) -> Event:
        kind, members = event
        place = {"item_id": self._items[-1].identifier, "output_index": len(self._items) - 1}
        return kind, {**place, **members}


def _message() -> MessageItem:
    return MessageItem(_identifier("msg"))


def _identifier(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(_ID_BYTES)}"
