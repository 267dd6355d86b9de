"""Cutting spans out of texts, of messages, and of streams whose messages they straddle."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.descriptors import texts
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, those that overlap as one under the surest one's label."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if found and span.start < found[-1].end:
            last = found[-1]
            surest = max(last, span, key=lambda s: s.score)
            end = max(last.end, span.end)
            found[-1] = Span(last.start, end, surest.label, surest.score, surest.scorer)
        else:
            found.append(span)
    return found


def mark(span: Span) -> str:
    """Return what stands where a span was."""
    return f"[{span.label}]"


def cut(text: str, spans: Sequence[Span], at: int = 0) -> str:
    """Return a text without its spans.

    A span that began before the text leaves no second mark in it.

    Args:
        text: Piece of a longer text, or all of it.
        spans: In order, none overlapping; offsets in the longer text.
        at: Where ``text`` begins in the longer text.
    """
    out, done = [], at
    for span in spans:
        if span.end <= at or span.start >= at + len(text):
            continue
        out.append(text[done - at : max(span.start, at) - at])
        if span.start >= at:
            out.append(mark(span))
        done = min(span.end, at + len(text))
    return "".join([*out, text[done - at :]])


class NotRedactableError(Exception):
    """The span lies in bytes or in a map, where cutting would break what the message says."""


def replace_texts(message: Message, changed: dict[str, str]) -> Message:
    """Return the message with other texts.

    Args:
        message: Left as it is.
        changed: New texts by path, as ``descriptors.texts`` names them.

    Raises:
        NotRedactableError: A path leads to bytes, a map or a list of strings.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    left = dict(changed)
    for owner, field, path in _fields(copy, ""):
        if path in left:
            if field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
                raise NotRedactableError(path)
            setattr(owner, field.name, left.pop(path))
    if left:
        raise NotRedactableError(next(iter(left)))
    return copy


def _fields(message: Message, path: str) -> Iterator[tuple[Any, FieldDescriptor, str]]:
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            yield message, field, name
        elif not field.is_repeated:
            yield from _fields(value, name)
        elif not (field.message_type and field.message_type.GetOptions().map_entry):
            for index, one in enumerate(value):
                yield from _fields(one, f"{name}[{index}]")


def without(message: Message, role: int, spans: Sequence[Span], at: int) -> Message:
    """Return a stream's message with spans cut out of the texts that it adds.

    Args:
        message: As it came.
        role: Text role of the fields whose texts are strung together.
        spans: In order; offsets in the stream.
        at: Where this message's text begins in the stream.

    Raises:
        NotRedactableError: As in ``replace_texts``.
    """
    changed, begin = {}, at
    for path, found, text in texts(message):
        if found == role:
            shorter = cut(text, spans, begin)
            if shorter != text:
                changed[path] = shorter
            begin += len(text)
    return replace_texts(message, changed) if changed else message
