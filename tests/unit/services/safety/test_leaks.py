"""Fields of responses by descriptor: each string, bytes and token field has a declared role.

The walk is over every message that a method of any of our services returns, so a new field, message
or service is covered without a change here. What no role declares is judged as text; an undeclared
field of tokens would be judged as a number.
"""

import importlib
import pkgutil
from collections.abc import Iterator

import bemfleet
import inference
from bemfleet.common.v1 import text_pb2
from bemfleet.router.v1 import router_pb2
from fleet.text_roles import field_options, role_of
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor

TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
INTEGERS = frozenset(
    getattr(FieldDescriptor, f"TYPE_{name}")
    for name in (
        *("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64"),
        *("FIXED32", "FIXED64", "SFIXED32", "SFIXED64"),
    )
)
# Fields of the Open Inference Protocol and of free-form structures, which cannot carry a role:
# judged as text, wherever they stand (test_text_slots).
JUDGED = frozenset(
    {
        "inference.ModelStreamInferResponse.error_message",
        "inference.ModelInferResponse.parameters",
        "inference.ModelInferResponse.raw_output_contents",
        "inference.ModelInferResponse.InferOutputTensor.parameters",
        "inference.InferParameter.string_param",
        "inference.InferTensorContents.bytes_contents",
        "google.protobuf.Struct.fields",
        "google.protobuf.Value.string_value",
    }
)


def services() -> Iterator[ServiceDescriptor]:
    """Yield the services of all protos."""
    for package in (bemfleet, inference):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("_pb2"):
                file = importlib.import_module(module.name).DESCRIPTOR
                yield from file.services_by_name.values()


def fields(message: Descriptor, visited: set[str]) -> Iterator[FieldDescriptor]:
    """Yield the fields of a message and of the messages within it; maps as their own field."""
    if message.full_name in visited:
        return
    visited.add(message.full_name)
    for field in message.fields:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = entry.fields
            if value.message_type is not None:
                yield from fields(value.message_type, visited)
            if key.type in TEXT or value.type in TEXT:
                yield field
        elif entry is not None:
            yield from fields(entry, visited)
        else:
            yield field


def response_fields() -> list[FieldDescriptor]:
    """Return the fields of all responses."""
    visited: set[str] = set()
    return [
        field
        for service in services()
        for method in service.methods
        for field in fields(method.output_type, visited)
    ]


def may_spell_text(field: FieldDescriptor) -> bool:
    """Return whether a field can hold text: characters, or integers that stand for tokens."""
    if field.type in TEXT or field.message_type is not None:
        return True
    name = field.name.split("_")
    named = any(part in ("id", "ids", "token", "codepoint") for part in name)
    return field.type in INTEGERS and (field.is_repeated or named)


def test_every_text_and_token_field_of_a_response_declares_its_role() -> None:
    """A field without a role fails: mark it as text, as a token of one, or as a label."""
    found = response_fields()
    undeclared = {
        field.full_name
        for field in found
        if may_spell_text(field) and role_of(field) == text_pb2.TEXT_ROLE_UNSPECIFIED
    }

    assert undeclared <= JUDGED, sorted(undeclared - JUDGED)
    assert len({field.full_name for field in found if may_spell_text(field)}) > 90


def test_tokens_and_texts_have_roles_of_their_kind() -> None:
    """A number is no text and never a delta; a prompt's role is none of a response's."""
    numbers = {
        text_pb2.TEXT_ROLE_UNSPECIFIED,
        text_pb2.TEXT_ROLE_LABEL,
        text_pb2.TEXT_ROLE_TOKEN,
    }
    for field in response_fields():
        role = role_of(field)
        if field.type in TEXT:
            assert role != text_pb2.TEXT_ROLE_PROMPT, field.full_name
        else:
            assert role in numbers, field.full_name


def test_walk_notices_a_field_without_a_role() -> None:
    """The requests' fields, some of which need no role, show that the walk reads options."""
    undeclared = [
        field.full_name
        for field in fields(router_pb2.Sampling.DESCRIPTOR, set())
        if not field_options(field).Extensions[text_pb2.text_role]
    ]

    assert "bemfleet.router.v1.Sampling.seed" in undeclared
