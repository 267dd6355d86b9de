"""Text roles of message fields: which fields carry text that is judged, and which end it.

The roles are the field options of ``bemfleet/common/v1/text.proto``. Descriptors that come from a
server's reflection live in a descriptor pool of their own, whose option classes do not know these
extensions; ``field_options`` therefore parses the serialised options with the generated class.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from bemfleet.common.v1 import text_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from fleet import bytes_tensors

JUDGED_ROLES = frozenset(
    {
        text_pb2.TEXT_ROLE_UNSPECIFIED,
        text_pb2.TEXT_ROLE_OUTPUT,
        text_pb2.TEXT_ROLE_OUTPUT_DELTA,
    }
)
"""Roles of response fields that a client reads as the answer; an unmarked field is one of them."""

FINAL_RESPONSE = "triton_final_response"
"""Parameter of the last response to a request in a stream of the Open Inference Protocol."""

# The Open Inference Protocol has none of our options. Most of its strings are names, and numbers
# may be the ids of tokens; the elements of output tensors are pieces of a text if their method
# streams.
_INFERENCE_ROLES = {
    **dict.fromkeys(
        (
            *("name", "model_name", "model_version", "version", "versions"),
            *("id", "datatype", "platform", "backend", "extensions", "shape", "dims"),
        ),
        text_pb2.TEXT_ROLE_LABEL,
    ),
    **dict.fromkeys(
        ("int_contents", "int64_contents", "uint_contents", "uint64_contents"),
        text_pb2.TEXT_ROLE_TOKEN,
    ),
    "bytes_contents": text_pb2.TEXT_ROLE_OUTPUT_DELTA,
    "raw_output_contents": text_pb2.TEXT_ROLE_OUTPUT_DELTA,
}
_ANSWER_ROLES = frozenset({text_pb2.TEXT_ROLE_OUTPUT, text_pb2.TEXT_ROLE_OUTPUT_DELTA})
_NOT_JUDGED = frozenset({text_pb2.TEXT_ROLE_LABEL, text_pb2.TEXT_ROLE_TOKEN})
_RAW_CONTENTS = ("inference.ModelInferRequest", "inference.ModelInferResponse")
_STREAM_RESPONSE = "inference.ModelStreamInferResponse"
_STRINGS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_ROLES: dict[str, text_pb2.TextRole.ValueType] = {}
_EXACT: dict[str, bool] = {}


def field_options(field: FieldDescriptor) -> descriptor_pb2.FieldOptions:
    """Return the options of a field from any descriptor pool, extensions included."""
    return descriptor_pb2.FieldOptions.FromString(field.GetOptions().SerializeToString())


def message_options(message: Descriptor) -> descriptor_pb2.MessageOptions:
    """Return the options of a message from any descriptor pool, extensions included."""
    return descriptor_pb2.MessageOptions.FromString(message.GetOptions().SerializeToString())


def role_of(field: FieldDescriptor) -> text_pb2.TextRole.ValueType:
    """Return the field's text role; TEXT_ROLE_UNSPECIFIED if the proto gives none."""
    role = _ROLES.get(field.full_name)
    if role is None:
        owner = field.containing_type
        package = owner.file.package if owner else ""
        foreign = _INFERENCE_ROLES.get(field.name) if package == "inference" else None
        role = foreign or field_options(field).Extensions[text_pb2.text_role]
        _ROLES[field.full_name] = role
    return role


def model_field_path(message: Descriptor) -> str:
    """Return the path of the field with option ``names_model``, such as ``request.model``.

    Returns:
        The path from ``message``, its components joined by dots; empty if there is no such field.
    """
    return next(_model_paths(message, frozenset()), "")


def ending_fields(message: Descriptor) -> tuple[str, ...]:
    """Return the names of the top-level fields with option ``ends_text``."""
    return tuple(
        field.name
        for field in message.fields
        if field_options(field).Extensions[text_pb2.ends_text]
    )


def ends_text(message: Message, fields: Sequence[str]) -> bool:
    """Return whether a stream's message says that no text follows it.

    A stream of the Open Inference Protocol may carry several requests; its message says so of the
    request that it answers. A message without the parameter is a complete answer.

    Args:
        message: Message of a response stream.
        fields: Result of ``ending_fields`` for its type.
    """
    if message.DESCRIPTOR.full_name == _STREAM_RESPONSE:
        foreign: Any = message
        parameters = foreign.infer_response.parameters
        unfinished = FINAL_RESPONSE in parameters and not parameters[FINAL_RESPONSE].bool_param
        return bool(foreign.error_message) or not unfinished
    return any(getattr(message, name) for name in fields)


def truncating_values(message: Descriptor) -> tuple[tuple[str, frozenset[int]], ...]:
    """Return the top-level enumeration fields that can say that an answer was cut off.

    Returns:
        Name of each field and its values with option ``truncates``.
    """
    found = []
    for field in message.fields:
        if field.enum_type is None or field.is_repeated:
            continue
        # As field options, parsed with the generated class whatever the descriptor's pool.
        values = frozenset(
            value.number
            for value in field.enum_type.values
            if descriptor_pb2.EnumValueOptions.FromString(
                value.GetOptions().SerializeToString()
            ).Extensions[text_pb2.truncates]
        )
        if values:
            found.append((field.name, values))
    return tuple(found)


def answers_with_text(message: Descriptor) -> bool:
    """Return whether the message type is an answer in text, so that one without text is empty.

    Its proto must say so of a field. The Open Inference Protocol carries any tensor, and an answer
    in numbers is none without text.
    """
    if message.file.package == "inference":
        return False
    return any(role_of(field) in _ANSWER_ROLES for field in text_fields(message))


def has_judged_text(message: Descriptor) -> bool:
    """Return whether the message type has a text field that is judged, at any depth."""
    return any(role_of(field) in JUDGED_ROLES for field in text_fields(message))


def text_fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    """Yield the string and bytes fields of a message type and of the messages within it."""
    yield from _text_fields(message, set())


def texts(message: Message, path: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield path, role and text of every string or bytes field that is set, at any depth.

    Labels are left out, which the server chose itself, and tokens, whose text is judged.

    Args:
        message: Message of any descriptor pool.
        path: Path of the message itself; empty for a request or response.
    """
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _nested_texts(field, value, name)
        elif field.type in _STRINGS:
            role = role_of(field)
            if role not in _NOT_JUDGED:
                for one in value if field.is_repeated else (value,):
                    yield from ((name, role, text) for text in _field_texts(field, one))


def asks_exact_answer(request: Message) -> bool:
    """Return whether a field with option ``exact_answer`` is set in a request, at any depth."""
    fields = request.ListFields()
    return any(_is_exact(field) for field, _ in fields) or any(
        asks_exact_answer(value)
        for field, value in fields
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated
    )


def _is_exact(field: FieldDescriptor) -> bool:
    exact = _EXACT.get(field.full_name)
    if exact is None:
        exact = field_options(field).Extensions[text_pb2.exact_answer]
        _EXACT[field.full_name] = exact
    return exact


def _model_paths(message: Descriptor, parents: frozenset[str]) -> Iterator[str]:
    if message.full_name in parents:  # a recursive type
        return
    for field in message.fields:
        if field_options(field).Extensions[text_pb2.names_model]:
            yield field.name
        elif field.message_type is not None and not field.is_repeated:
            inner = _model_paths(field.message_type, parents | {message.full_name})
            yield from (f"{field.name}.{path}" for path in inner)


def _text_fields(message: Descriptor, visited: set[str]) -> Iterator[FieldDescriptor]:
    if message.full_name in visited:
        return
    visited.add(message.full_name)
    for field in message.fields:
        if field.message_type is not None:
            yield from _text_fields(field.message_type, visited)
        elif field.type in _STRINGS:
            yield field


def _nested_texts(field: FieldDescriptor, value: Any, name: str) -> Iterator[tuple[str, int, str]]:
    if not field.is_repeated:
        yield from texts(value, name)
        return
    entry = field.message_type
    if entry and entry.GetOptions().map_entry:
        role = role_of(field)
        # Parameters of the Open Inference Protocol are a vocabulary, like the names of fields.
        named = entry.file.package == "inference"
        judged = role not in _NOT_JUDGED
        # Paths number the entries: a key may be text that must not occur in an error.
        for index, (key, one) in enumerate(value.items()):
            if judged and isinstance(key, str) and not named:
                yield f"{name}.key", role, key
            if isinstance(one, Message):
                yield from texts(one, f"{name}[{index}]")
            elif judged and isinstance(one, str | bytes):
                yield f"{name}[{index}]", role, _decode(one)
        return
    for index, one in enumerate(value):
        yield from texts(one, f"{name}[{index}]")


def _field_texts(field: FieldDescriptor, value: str | bytes) -> Iterator[str]:
    """Yield the texts of one value: the elements of a raw tensor, else the value itself."""
    owner = field.containing_type
    if isinstance(value, bytes) and owner and owner.full_name in _RAW_CONTENTS:
        try:
            yield from [_decode(element) for element in bytes_tensors.unpack(value)]
        except ValueError:  # no BYTES tensor: judged as it is
            yield _decode(value)
    else:
        yield _decode(value)


def _decode(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", errors="replace")
