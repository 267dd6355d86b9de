"""Text slots of a message: every text that is judged, with its role and a way to replace it.

The walk follows the descriptors, so a field that nobody thought of is judged like any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bemfleet.common.v1 import text_pb2
from fleet import bytes_tensors
from fleet.text_roles import role_of
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_STRINGS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_NOT_JUDGED = frozenset({text_pb2.TEXT_ROLE_LABEL, text_pb2.TEXT_ROLE_TOKEN})
_RAW_TENSORS = frozenset(
    {
        "inference.ModelInferRequest.raw_input_contents",
        "inference.ModelInferResponse.raw_output_contents",
    }
)


@dataclass(frozen=True)
class TextSlot:
    """One text of a message.

    Attributes:
        path: Path of the field, without any text of the message.
        role: Text role of the field.
        text: The text; bytes that are not UTF-8 are decoded with replacement characters.
        owner: Message that has the field.
        owner_path: Path of that message; empty for the response itself.
        field: The field.
        replace: Sets another text; None where that would break the message.
    """

    path: str
    role: int
    text: str
    owner: Message
    owner_path: str
    field: FieldDescriptor
    replace: Callable[[str], None] | None


def text_slots(message: Message, path: str = "") -> Iterator[TextSlot]:
    """Yield the texts of a message at any depth, in the order of its fields."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        role = role_of(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from _map_slots(message, path, field, value, name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            elements = enumerate(value) if field.is_repeated else [(None, value)]
            for index, element in elements:
                yield from text_slots(element, name if index is None else f"{name}[{index}]")
        elif field.type in _STRINGS and role not in _NOT_JUDGED:
            yield from _string_slots(message, path, field, value, name)


def _string_slots(
    owner: Message, owner_path: str, field: FieldDescriptor, value: Any, name: str
) -> Iterator[TextSlot]:
    role = role_of(field)
    if not field.is_repeated:

        def set_field(text: str) -> None:
            setattr(owner, field.name, _encoded(field, text))

        set_or_none = set_field if _is_utf8(value) else None
        yield TextSlot(name, role, _decoded(value), owner, owner_path, field, set_or_none)
        return
    for index, element in enumerate(value):
        path = f"{name}[{index}]"
        elements = _tensor_elements(field, element)
        if elements is not None:
            pack = _tensor_setter(value, index)
            yield from (
                TextSlot(f"{path}[{at}]", role, _decoded(one), owner, owner_path, field, setter)
                for at, one, setter in _tensor_slots(elements, pack)
            )
            continue
        setter = _element_setter(field, value, index) if _is_utf8(element) else None
        yield TextSlot(path, role, _decoded(element), owner, owner_path, field, setter)


def _element_setter(field: FieldDescriptor, values: Any, index: int) -> Callable[[str], None]:
    def set_element(text: str) -> None:
        values[index] = _encoded(field, text)

    return set_element


def _tensor_elements(field: FieldDescriptor, raw: str | bytes) -> list[bytes] | None:
    """Return the elements of raw BYTES contents; None if the value is no such tensor."""
    if field.full_name not in _RAW_TENSORS or not isinstance(raw, bytes):
        return None
    try:
        return list(bytes_tensors.unpack(raw))
    except ValueError:  # numbers: judged as they are
        return None


def _tensor_setter(values: Any, index: int) -> Callable[[list[bytes]], None]:
    def set_tensor(elements: list[bytes]) -> None:
        values[index] = bytes_tensors.pack(elements)

    return set_tensor


def _tensor_slots(
    elements: list[bytes], set_tensor: Callable[[list[bytes]], None]
) -> Iterator[tuple[int, bytes, Callable[[str], None] | None]]:
    """Yield the elements of a raw tensor; each carries its length, so the tensor is packed anew."""

    def setter_of(at: int) -> Callable[[str], None]:
        def set_element(text: str) -> None:
            elements[at] = text.encode()
            set_tensor(elements)

        return set_element

    for at, element in enumerate(elements):
        yield at, element, setter_of(at) if _is_utf8(element) else None


def _map_slots(
    owner: Message, owner_path: str, field: FieldDescriptor, value: Any, name: str
) -> Iterator[TextSlot]:
    """Yield keys and values of a map; paths number the entries, because a key may be text."""
    role = role_of(field)
    judged = role not in _NOT_JUDGED
    for index, (key, one) in enumerate(list(value.items())):
        path = f"{name}[{index}]"
        if judged and isinstance(key, str):
            yield TextSlot(f"{path}.key", role, key, owner, owner_path, field, None)
        if isinstance(one, Message):
            yield from text_slots(one, path)
        elif judged and isinstance(one, str | bytes):
            setter = _entry_setter(value, key) if _is_utf8(one) else None
            yield TextSlot(path, role, _decoded(one), owner, owner_path, field, setter)


def _entry_setter(values: Any, key: Any) -> Callable[[str], None]:
    def set_entry(text: str) -> None:
        values[key] = text if isinstance(values[key], str) else text.encode()

    return set_entry


def _encoded(field: FieldDescriptor, text: str) -> str | bytes:
    return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()


def _is_utf8(value: str | bytes) -> bool:
    if isinstance(value, str):
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoded(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", errors="replace")
