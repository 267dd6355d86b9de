"""Redaction of protobuf messages: replaces texts, and spans that straddle messages of a stream."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import redact
from bem_fleet.services.safety.descriptors import texts
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


class NotRedactableError(Exception):
    """The span lies in bytes, a map or a list of strings, where redaction breaks the message."""


def replace_texts(message: Message, replacements: Mapping[str, str]) -> Message:
    """Return a copy of a message with some texts replaced.

    Args:
        message: Message; it is not changed.
        replacements: New texts by field path, as ``descriptors.texts`` names them.

    Raises:
        NotRedactableError: A path leads to bytes, a map or a list of strings.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    remaining = dict(replacements)
    for owner, field, path in _walk_fields(copy, ""):
        if path in remaining:
            if field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
                raise NotRedactableError(path)
            setattr(owner, field.name, remaining.pop(path))
    if remaining:
        raise NotRedactableError(next(iter(remaining)))
    return copy


def _walk_fields(message: Message, path: str) -> Iterator[tuple[Any, FieldDescriptor, str]]:
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            yield message, field, name
        elif not field.is_repeated:
            yield from _walk_fields(value, name)
        elif not (field.message_type and field.message_type.GetOptions().map_entry):
            for index, element in enumerate(value):
                yield from _walk_fields(element, f"{name}[{index}]")


def redact_message(message: Message, role: int, spans: Sequence[Span], offset: int) -> Message:
    """Return a stream's message with spans redacted from the texts of one role.

    Args:
        message: Original message.
        role: Text role of the fields whose texts form the stream's text.
        spans: Sorted spans without overlaps; offsets in the stream's text.
        offset: Offset of this message's text in the stream's text.

    Raises:
        NotRedactableError: A span lies where ``replace_texts`` cannot replace text.
    """
    replacements, position = {}, offset
    for path, text_role, text in texts(message):
        if text_role == role:
            redacted = redact(text, spans, position)
            if redacted != text:
                replacements[path] = redacted
            position += len(text)
    return replace_texts(message, replacements) if replacements else message
