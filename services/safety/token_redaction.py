"""Redaction of tokens: entries such as log-probabilities follow the text that they spell.

An entry covers a part of the text beside it. It is kept if that part leaves as it is, replaced if
a redacted span touches the part, and emptied if its bytes are not in the text at all: such bytes
were never judged. Emptied entries keep their places, because clients count tokens: those of a
prompt before those of the text to score. Example: the text ``"to a@b.c."`` has the tokens ``to``,
`` a@``, ``b.c``, ``.``; when the address is redacted, they are ``to``, `` [EMAIL_ADDRESS]``, an
empty one and ``.``.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import redact
from bemfleet.common.v1 import text_pb2
from fleet.text_roles import field_options, role_of
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_TOKEN = text_pb2.TEXT_ROLE_TOKEN
_TEXT_ROLES = frozenset({text_pb2.TEXT_ROLE_OUTPUT, text_pb2.TEXT_ROLE_OUTPUT_DELTA})
_TEXT_TYPES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
# Characters of the text that no entry covers, such as those of a token that a tokenizer cannot
# spell, before the entries behind them are found again.
_MAX_GAP = 8


@dataclass(frozen=True)
class EntryLayout:
    """Fields of a token's entry, found by their options.

    Attributes:
        piece: Path to the field with the entry's part of the text.
        alternatives: Repeated message fields with tokens that could have stood in its place.
        marks: Fields that say that text of the entry was replaced.
    """

    piece: tuple[FieldDescriptor, ...]
    alternatives: tuple[FieldDescriptor, ...]
    marks: tuple[FieldDescriptor, ...]


@dataclass(frozen=True)
class KeptEntry:
    """An entry that leaves as it is.

    Attributes:
        entry: The entry within its message.
        layout: Fields of the entry.
        start: Offset of its part in the text.
        end: Offset behind its part.
    """

    entry: Any
    layout: EntryLayout
    start: int
    end: int


def type_of(message: Message) -> Descriptor:
    """Return the descriptor of a message, which the stubs type by its implementation."""
    descriptor: Any = message.DESCRIPTOR
    return cast("Descriptor", descriptor)


def entry_fields(message: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the repeated message fields of a type whose elements are tokens' entries."""
    return tuple(
        field
        for field in message.fields
        if field.is_repeated
        and field.message_type is not None
        and not field.message_type.GetOptions().map_entry
        and layout_of(field.message_type).piece
    )


def bare_tokens(message: Message) -> bool:
    """Return whether a message has token fields outside of entries, at any depth.

    Nothing tells which part of a text they spell, so they cannot be redacted with it.
    """
    skipped = {field.name for field in entry_fields(type_of(message))}
    for field, value in message.ListFields():
        if field.name in skipped:
            continue
        if field.message_type is None:
            if role_of(field) == _TOKEN:
                return True
        elif not field.message_type.GetOptions().map_entry:
            inner = value if field.is_repeated else (value,)
            if any(bare_tokens(one) for one in inner):
                return True
    return False


_LAYOUTS: dict[str, EntryLayout] = {}


def layout_of(entry: Descriptor) -> EntryLayout:
    """Return the fields of an entry type."""
    layout = _LAYOUTS.get(entry.full_name)
    if layout is None:
        layout = _LAYOUTS[entry.full_name] = _read_layout(entry)
    return layout


def _read_layout(entry: Descriptor) -> EntryLayout:
    alternatives, marks = [], []
    for field in entry.fields:
        options = field_options(field)
        if options.Extensions[text_pb2.alternatives]:
            alternatives.append(field)
        if options.Extensions[text_pb2.marks_redaction]:
            marks.append(field)
    return EntryLayout(_piece_path(entry), tuple(alternatives), tuple(marks))


def _piece_path(entry: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the path to the first token; empty if the type has a text, which it stands beside."""
    if any(role_of(field) in _TEXT_ROLES for field in entry.fields):
        return ()
    for field in entry.fields:
        if field_options(field).Extensions[text_pb2.alternatives]:
            continue
        if field.message_type is not None and not field.is_repeated:
            if inner := _piece_path(field.message_type):
                return (field, *inner)
        elif field.type in _TEXT_TYPES and role_of(field) == _TOKEN:
            return (field,)
    return ()


def piece_of(entry: Any, path: Sequence[FieldDescriptor]) -> bytes:
    """Return the bytes at a path of fields; empty if the path is."""
    value = entry
    for field in path:
        value = getattr(value, field.name)
    if not path:
        return b""
    return value.encode() if isinstance(value, str) else bytes(value)


class Place(NamedTuple):
    """Part of a text that a token covers.

    Attributes:
        start: Offset of its first character.
        end: Offset behind the last character that it completes.
        pending: First bytes of the character behind, which later tokens complete.
        begun: First bytes of the first character, which earlier tokens have.
    """

    start: int
    end: int
    pending: bytes
    begun: bytes


class TokenAligner:
    """Finds the part of one text that each of its tokens covers, in order.

    Args:
        position: Offset in the text of the first token.
    """

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self._origin = position
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def place(self, piece: bytes, text: str, limit: int) -> Place | None:
        """Return the part that a token covers; None if it covers none.

        Args:
            piece: Bytes of the token.
            text: Original text, from its start.
            limit: Offset behind the last character that the token may cover.
        """
        start = self._position
        begun = self._decoder.getstate()[0]
        decoded = self._decoder.decode(piece)
        pending = self._decoder.getstate()[0]
        found = self._find(decoded, text, limit) if decoded else (start, start)
        if found is None or not (decoded or pending):
            self._decoder.reset()
            return None
        end = found[1]
        if pending and not (end < limit and text[end].encode().startswith(pending)):
            self._decoder.reset()
            return None
        return Place(*found, pending, begun)

    def _find(self, decoded: str, text: str, limit: int) -> tuple[int, int] | None:
        for start in range(self._position, min(self._position + _MAX_GAP, limit) + 1):
            end = start + len(decoded)
            if end <= limit and text.startswith(decoded, start):
                self._position = end
                return start, end
        # Some tokenizers drop the blank before the first word.
        shorter = decoded.removeprefix(" ")
        end = self._origin + len(shorter)
        first = self._position == self._origin
        if first and shorter and end <= limit and text.startswith(shorter, self._origin):
            self._position = end
            return self._origin, end
        return None


def redact_entries(
    container: Any, aligner: TokenAligner, text: str, limit: int, spans: Sequence[Span]
) -> list[KeptEntry]:
    """Redact the entries of one field in place, and return those that leave as they are.

    Args:
        container: Elements of the field; at least one.
        aligner: Aligner of the text, which has placed the entries before these.
        text: Original text, from its start.
        limit: Offset behind the text of this message.
        spans: Redacted spans of the text, sorted and without overlaps.
    """
    layout = layout_of(container[0].DESCRIPTOR)
    entries, places = [], []
    for entry in container:
        place = aligner.place(piece_of(entry, layout.piece), text, limit)
        redacted = (
            _filled(entry, layout, b"")
            if place is None
            else _redacted_entry(entry, layout, text, place, spans)
        )
        if redacted is not None:
            entries.append(redacted)
            places.append(place if redacted is entry else None)
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del container[:]
    container.extend(kept)
    return [
        KeptEntry(container[index], layout, place.start, place.end)
        for index, place in enumerate(places)
        if place is not None
    ]


def _redacted_entry(
    entry: Any, layout: EntryLayout, text: str, place: Place, spans: Sequence[Span]
) -> Any:
    """Return the entry itself, or an entry of which only the rest of its text is left."""
    start, end, pending, begun = place
    touched = [s for s in spans if s.start < end + bool(pending) and s.end > start]
    if not touched:
        return entry
    if touched[-1].end > end:  # the character that is pending is redacted too
        pending = b""
    piece = redact(text[start:end], touched, start).encode() + pending
    if touched[0].start > start:
        piece = piece[len(begun) :]
    return _filled(entry, layout, piece)


def _filled(entry: Any, layout: EntryLayout, piece: bytes) -> Any:
    """Return a marked entry with nothing but a text; None if it would have neither."""
    if not (piece or layout.marks):
        return None
    blank: Any = type(entry)()
    owner = blank
    for field in layout.piece[:-1]:
        owner = getattr(owner, field.name)
    last = layout.piece[-1]
    is_text = last.type == FieldDescriptor.TYPE_STRING
    setattr(owner, last.name, piece.decode(errors="replace") if is_text else piece)
    for mark in layout.marks:
        setattr(blank, mark.name, True)
    return blank
