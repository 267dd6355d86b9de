"""Instruction files: conversations with the reply to learn, as JSON Lines that people bring.

A line is a chat, ``{"messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant",
"content": "..."}]}``, whose last message is the reply, or a pair, ``{"prompt": "...", "response":
"..."}``, which is read as a chat of two messages. All problems of a file are found at once, each
with its line. Folders of Hugging Face datasets are read by ``bem_fleet.data.instruction_folders``.
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
        line: Line of the file, or row of the dataset, from 1.
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


class InstructionError(BemError):
    """One line or row cannot be used."""


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
                except InstructionError as err:
                    problems.append(f"{path.name}:{number}: {err}")
    except OSError as err:
        raise InstructionFileError(f"{path}: {err.strerror or err}; name a JSONL file") from err
    return usable(found, problems, f"{path.name}: has no line")


def usable(found: list[Instruction], problems: Sequence[str], empty: str) -> list[Instruction]:
    """Return what was found.

    Args:
        found: Instructions, in order.
        problems: Description of each line or row that cannot be used.
        empty: Description of data without an instruction.

    Raises:
        InstructionFileError: There are problems, or nothing was found.
    """
    if problems:
        raise InstructionFileError(_listed(problems))
    if not found:
        raise InstructionFileError(f"{empty}; at least one instruction is needed")
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
        raise InstructionError(
            f"has {len(raw)} bytes; at most {MAX_LINE_BYTES} are allowed; split it"
        )
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise InstructionError(f"is not JSON ({err}); write one object a line") from err
    if not isinstance(value, dict):
        raise InstructionError("is no JSON object; write messages, or prompt and response")
    return parse_instruction(number, value)


def parse_instruction(number: int, value: dict[str, Any]) -> Instruction:
    """Return the instruction of a chat or a pair.

    Args:
        number: Line or row, from 1.
        value: ``messages``, or ``prompt`` and ``response``; other names are ignored.

    Raises:
        InstructionError: A name is missing or has another type, or there is no reply to learn.
    """
    messages = _messages(value)
    if messages[-1][0] != "assistant":
        raise InstructionError(
            f"messages[{len(messages) - 1}].role: {messages[-1][0]!r} ends the conversation; the "
            "last message must be the assistant's, the reply to learn"
        )
    if len(messages) < 2:
        raise InstructionError("messages: has only a reply; at least one message must precede it")
    if not messages[-1][1].strip():
        raise InstructionError("the reply is empty; write the text to learn")
    return Instruction(number, tuple(messages[:-1]), messages[-1][1])


def _messages(value: dict[str, Any]) -> list[tuple[str, str]]:
    if "messages" in value:
        given = value["messages"]
        if not isinstance(given, list) or not given:
            raise InstructionError("messages: is no list of messages; write at least two")
        return [_message(index, one) for index, one in enumerate(given)]
    reply = "response" if "response" in value else "completion"
    pair = []
    for role, name in (("user", "prompt"), ("assistant", reply)):
        if name not in value:
            wanted = "messages, or prompt and response"
            raise InstructionError(f"{name}: is missing; write {wanted}")
        pair.append((role, _text(name, value[name])))
    return pair


def _message(index: int, given: Any) -> tuple[str, str]:
    place = f"messages[{index}]"
    if not isinstance(given, dict):
        raise InstructionError(f"{place}: is no object; write role and content")
    role = given.get("role")
    if role not in ROLES:
        raise InstructionError(f"{place}.role: {role!r} is unknown; use one of {', '.join(ROLES)}")
    return str(role), _text(f"{place}.content", given.get("content"))


def _text(place: str, given: Any) -> str:
    if not isinstance(given, str):
        raise InstructionError(f"{place}: is no text; write a string")
    try:
        given.encode()
    except UnicodeEncodeError as err:
        raise InstructionError(f"{place}: has a lone surrogate; remove it") from err
    return given
