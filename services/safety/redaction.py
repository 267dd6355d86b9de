"""Redaction of protobuf messages: their texts, and the tokens that spell these texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bem_fleet.guard.findings import Span
from bem_fleet.guard.spans import redact
from bem_fleet.services.safety.text_slots import TextSlot
from bem_fleet.services.safety.token_redaction import (
    KeptEntry,
    TokenAligner,
    bare_tokens,
    entry_fields,
    redact_entries,
    type_of,
)
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


class NotRedactableError(Exception):
    """The span lies where another text breaks the message, such as in the key of a map."""


def replace_texts(message: Message, replacements: Sequence[tuple[TextSlot, str]]) -> None:
    """Replace texts of a message in place.

    Args:
        message: Message that has the slots.
        replacements: Slots with their new texts.

    Raises:
        NotRedactableError: A text cannot be replaced, or tokens of the message cannot be redacted
            with it.
    """
    for slot, text in replacements:
        if slot.replace is None:
            raise NotRedactableError(slot.path)
        slot.replace(text)
    if replacements and bare_tokens(message):
        raise NotRedactableError(f"tokens beside {replacements[0][0].path}")


def redact_stream_text(
    message: Message, slots: Sequence[TextSlot], spans: Sequence[Span], offset: int
) -> None:
    """Redact the streamed texts of one message in place.

    Args:
        message: Message of the stream.
        slots: Streamed texts of the message, in order.
        spans: Sorted spans without overlaps; offsets in the stream's text.
        offset: Offset of this message's text in the stream's text.

    Raises:
        NotRedactableError: A text cannot be replaced.
    """
    replacements = []
    for slot in slots:
        redacted = redact(slot.text, spans, offset)
        if redacted != slot.text:
            replacements.append((slot, redacted))
        offset += len(slot.text)
    replace_texts(message, replacements)


def redact_tokens(
    message: Message,
    slots: Sequence[TextSlot],
    spans_by_path: Mapping[str, Sequence[Span]],
    origins: Mapping[str, tuple[str, int]],
) -> list[tuple[str, list[KeptEntry]]]:
    """Redact the token entries of a message in place, with the complete texts beside them.

    Entries without exactly one text beside them are dropped: nothing says what they cover.

    Args:
        message: Message whose texts were replaced already.
        slots: Complete texts of the message as they were.
        spans_by_path: Redacted spans by the path of the text; offsets as in ``origins``.
        origins: By the path of the text, the text that it continues, followed by itself, and the
            offset at which it begins there.

    Returns:
        Texts as in ``origins``, each with the entries that leave as they are.
    """
    kept = []
    for path, owner, field in _entry_owners(message, ""):
        beside = [slot for slot in slots if slot.owner_path == path and not slot.field.is_repeated]
        if len(beside) != 1:
            del getattr(owner, field.name)[:]
            continue
        place = beside[0].path
        text, origin = origins.get(place, (beside[0].text, 0))
        spans = spans_by_path.get(place, ())
        container = getattr(owner, field.name)
        entries = redact_entries(container, TokenAligner(origin), text, len(text), spans)
        kept.append((text, entries))
    return kept


def has_entries(message: Message) -> bool:
    """Return whether a message has token entries, at any depth."""
    return next(_entry_owners(message, ""), None) is not None


def _entry_owners(message: Message, path: str) -> Iterator[tuple[str, Any, FieldDescriptor]]:
    """Yield path, message and field of all token entries that are set."""
    own = {field.name for field in entry_fields(type_of(message))}
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.name in own:
            yield path, message, field
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        elif not field.is_repeated:
            yield from _entry_owners(value, name)
        else:
            for index, element in enumerate(value):
                yield from _entry_owners(element, f"{name}[{index}]")
