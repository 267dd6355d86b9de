"""Tool calls in the text of an answer: OpenAI's messages and deltas from the router's text.

The router writes a call in one way only, which ``router.proto`` states with ``ChatPrompt.tools``,
so that the reader looks for fixed texts. They may be split over any number of deltas. An answer
that is cut (``max_tokens``) may end in the middle of any of them; what is neither the model's text
nor an argument is then left out.
"""

import json
import secrets
from typing import Any

OPEN, HEAD_END, CLOSE = '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"
_TAG = "<tool_call>"
_ID_BYTES = 12


class ToolCallReader:
    """Reads one answer, delta by delta.

    Args:
        required: Whether the answer is calls alone, so that no text is content.

    Attributes:
        calls: Number of calls that have begun.
    """

    def __init__(self, *, required: bool = False) -> None:
        self.calls = 0
        self._required, self._written = required, ""
        self._rest = ""
        self._awaited = OPEN
        self._after_call = False

    @property
    def is_open(self) -> bool:
        """Whether the arguments of the last call are not complete."""
        return self._awaited == CLOSE

    def read(self, text: str, *, ended: bool) -> dict[str, Any]:
        """Return the next text as the members of a delta: ``content``, ``tool_calls`` or none.

        Args:
            text: Text that the answer goes on with.
            ended: Whether it ends there; what waited for the rest of a mark is then released.
        """
        self._rest += text
        content, calls = "", []
        while True:
            before, mark, after = self._rest.partition(self._awaited)
            if not mark:
                break
            self._rest = after
            if self._awaited == OPEN:
                content += self._content(before)
                self._awaited = HEAD_END
            elif self._awaited == HEAD_END:
                calls.append(self._begin(before))
                self._awaited = CLOSE
            else:
                calls.append(self._arguments(before))
                self._close()
        if ended:
            self._drop_cut_mark()
        released = "" if self._awaited == HEAD_END else self._release(ended=ended)
        if released and self._awaited == OPEN:
            content += self._content(released)
        elif released:
            calls.append(self._arguments(released))
        if ended and self.is_open and _is_json(self._written):
            self._close()
        delta: dict[str, Any] = {"content": content} if content else {}
        return {**delta, "tool_calls": calls} if calls else delta

    def _close(self) -> None:
        self._awaited, self._after_call = OPEN, True

    def _awaited_chars(self) -> int:
        """Return how many of the last characters may begin the awaited mark."""
        longest = min(len(self._rest), len(self._awaited) - 1)
        ends = range(longest, 0, -1)
        return next((n for n in ends if self._awaited.startswith(self._rest[-n:])), 0)

    def _drop_cut_mark(self) -> None:
        """Leave out the beginning of a mark with which a cut answer ends.

        A beginning of ``CLOSE`` may also be the arguments' own end, which is no JSON without it.
        """
        held = self._awaited_chars()
        kept = self._rest[: len(self._rest) - held]
        is_mark = held >= len(_TAG) if self._awaited == OPEN else _is_json(self._written + kept)
        if self._awaited != HEAD_END and is_mark:
            self._rest = kept

    def _release(self, *, ended: bool) -> str:
        """Take the text that cannot be the beginning of the awaited mark."""
        cut = len(self._rest) - (0 if ended else self._awaited_chars())
        released, self._rest = self._rest[:cut], self._rest[cut:]
        return released

    def _content(self, text: str) -> str:
        """Return the text; what stands between two calls or beside required ones is none."""
        return "" if self._after_call or self._required else text

    def _begin(self, name: str) -> dict[str, Any]:
        self.calls += 1
        self._written = ""
        return {
            "index": self.calls - 1,
            "id": f"call_{secrets.token_hex(_ID_BYTES)}",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }

    def _arguments(self, text: str) -> dict[str, Any]:
        self._written += text
        return {"index": self.calls - 1, "function": {"arguments": text}}


def read_message(text: str, *, required: bool = False) -> dict[str, Any]:
    """Return a whole answer as the members ``content`` and ``tool_calls`` of a message.

    Args:
        text: Text of the answer.
        required: Whether it is calls alone.
    """
    delta = ToolCallReader(required=required).read(text, ended=True)
    calls: list[dict[str, Any]] = []
    for part in delta.get("tool_calls", ()):
        if "id" in part:
            calls.append({key: value for key, value in part.items() if key != "index"})
        else:
            calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    message: dict[str, Any] = {"content": delta.get("content")}
    if calls:
        message["tool_calls"] = calls
    return message


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
