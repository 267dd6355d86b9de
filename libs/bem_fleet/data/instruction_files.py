"""Instruction files: conversations with the reply to learn, as JSON Lines that people bring.

A line is a chat, ``{"messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant",
"content": "..."}]}``, whose last message is the reply, or a pair, ``{"prompt": "...", "response":
"..."}``, which is read as a chat of two messages. All problems of a file are found at once, each
with its line.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.errors import BemError

ROLES = ("system", "user", "assistant")
MAX_LINE_BYTES = 4 * 2**20
_SHOWN_PROBLEMS = 20


class InstructionFileError(BemError):
    """A file has lines that cannot be used; the text names each line and what is wrong."""


@dataclass(frozen=True)
class Instruction:
    """A conversation with the reply to learn.

    Attributes:
        line: Line of the file, from 1.
        messages: Role and text of each message before the reply; at least one.
        reply: Text to learn, not empty.
    """

    line: int
    messages: tuple[tuple[str, str], ...]
    reply: str

    def chat(self) -> list[dict[str, str]]:
        """Return the messages as a chat template reads them."""
        return [{"role": role, "content": text} for role, text in self.messages]

    @property
    def digest(self) -> str:
        """SHA-256 of messages and reply, hexadecimal."""
        text = json.dumps([self.messages, self.reply])
        return hashlib.sha256(text.encode()).hexdigest()


class _LineError(Exception):
    """A line cannot be used."""


def read_instructions(path: Path) -> list[Instruction]:
    """Return the instructions of a file, in order; empty lines are skipped.

    Raises:
        InstructionFileError: The file cannot be read, has no instruction, or has lines that cannot
            be used.
    """
    found: list[Instruction] = []
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    found.append(_parse(number, raw))
                except _LineError as err:
                    problems.append(f"{path.name}:{number}: {err}")
    except OSError as err:
        raise InstructionFileError(f"{path}: {err.strerror or err}; name a JSONL file") from err
    if problems:
        raise InstructionFileError(_listed(problems))
    if not found:
        raise InstructionFileError(f"{path.name}: has no line; at least one instruction is needed")
    return found


def data_digest(instructions: Sequence[Instruction]) -> str:
    """Return a SHA-256 over all instructions in order, hexadecimal."""
    return hashlib.sha256("".join(one.digest for one in instructions).encode()).hexdigest()


def refuse_shared(
    train: Sequence[Instruction], evaluation: Sequence[Instruction], name: str
) -> None:
    """Refuse evaluation items that are in the training data too: their score would say nothing.

    Args:
        train: Training data.
        evaluation: Evaluation data.
        name: Name of the evaluation file.

    Raises:
        InstructionFileError: An item is in both.
    """
    lines = {one.messages: one.line for one in train}
    shared = [
        f"{name}:{one.line}: has the messages of the training data's line "
        f"{lines[one.messages]}; an evaluation item must be new; remove one of them"
        for one in evaluation
        if one.messages in lines
    ]
    if shared:
        raise InstructionFileError(_listed(shared))


def _listed(problems: Sequence[str]) -> str:
    shown = list(problems[:_SHOWN_PROBLEMS])
    if more := len(problems) - len(shown):
        shown.append(f"and {more} more lines")
    return "\n".join(shown)


def _parse(number: int, raw: bytes) -> Instruction:
    if len(raw) > MAX_LINE_BYTES:
        raise _LineError(f"has {len(raw)} bytes; at most {MAX_LINE_BYTES} are allowed; split it")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise _LineError(f"is not JSON ({err}); write one object a line") from err
    if not isinstance(value, dict):
        raise _LineError("is no JSON object; write messages, or prompt and response")
    messages = _messages(value)
    if messages[-1][0] != "assistant":
        raise _LineError(
            f"messages[{len(messages) - 1}].role: {messages[-1][0]!r} ends the conversation; the "
            "last message must be the assistant's, the reply to learn"
        )
    if len(messages) < 2:
        raise _LineError("messages: has only a reply; at least one message must precede it")
    if not messages[-1][1].strip():
        raise _LineError("the reply is empty; write the text to learn")
    return Instruction(number, tuple(messages[:-1]), messages[-1][1])


def _messages(value: dict[str, Any]) -> list[tuple[str, str]]:
    if "messages" in value:
        given = value["messages"]
        if not isinstance(given, list) or not given:
            raise _LineError("messages: is no list of messages; write at least two")
        return [_message(index, one) for index, one in enumerate(given)]
    reply = "response" if "response" in value else "completion"
    pair = []
    for role, name in (("user", "prompt"), ("assistant", reply)):
        if name not in value:
            wanted = "messages, or prompt and response"
            raise _LineError(f"{name}: is missing; write {wanted}")
        pair.append((role, _text(name, value[name])))
    return pair


def _message(index: int, given: Any) -> tuple[str, str]:
    place = f"messages[{index}]"
    if not isinstance(given, dict):
        raise _LineError(f"{place}: is no object; write role and content")
    role = given.get("role")
    if role not in ROLES:
        raise _LineError(f"{place}.role: {role!r} is unknown; use one of {', '.join(ROLES)}")
    return str(role), _text(f"{place}.content", given.get("content"))


def _text(place: str, given: Any) -> str:
    if not isinstance(given, str):
        raise _LineError(f"{place}: is no text; write a string")
    try:
        given.encode()
    except UnicodeEncodeError as err:
        raise _LineError(f"{place}: has a lone surrogate; remove it") from err
    return given
