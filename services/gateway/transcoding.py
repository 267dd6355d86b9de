"""JSON transcoding of protobuf messages by descriptor, with errors that name the field."""

import re
from collections.abc import Iterator
from typing import Any

from bem_fleet.services.gateway.body_route import parse_body
from bem_fleet.services.gateway.errors import ApiError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

_PARSE_PREFIX = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN_FIELD = re.compile(r'has no field named "([^"]*)"')
_PLACE = re.compile(r' at "?([\w.\[\]]+)"?\.')


def parse_json(body: bytes, message_class: type[Message]) -> Message:
    """Return the message that a JSON object describes, in protobuf's JSON mapping.

    Fields may have their proto names or lowerCamelCase names; an empty body is an empty message.

    Args:
        body: JSON text in UTF-8.
        message_class: Message class from any descriptor pool.

    Raises:
        ApiError: The body is not a JSON object, or a field is unknown, has a wrong value or is no
            valid Unicode; the error's param is the path of the field.
    """
    try:
        value = parse_body(body) if body.strip() else {}
    except (ValueError, RecursionError) as err:
        raise ApiError(400, "body: not valid JSON; correct it", code="invalid_json") from err
    if not isinstance(value, dict):
        raise ApiError(
            400,
            f"body: a JSON {type(value).__name__}; it must be an object with the fields of "
            f"{message_class.DESCRIPTOR.full_name}",
            code="invalid_json",
        )
    try:
        return ParseDict(value, message_class())
    except (ParseError, ValueError, TypeError) as err:
        raise _field_error(str(err), value, message_class) from err


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON with proto field names; fields without presence are always there."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _field_error(text: str, value: dict[str, Any], message_class: type[Message]) -> ApiError:
    """Return the HTTP error for an error of protobuf's JSON parser.

    The parser names the place either at the end of its text or by nested prefixes, of which it may
    leave out the outer ones. ``Failed to parse messages field: Failed to parse role field: …``
    becomes param ``chat.messages.role``: the path in the body that ends so.
    """
    problem = _PARSE_PREFIX.sub("", text).splitlines()[0].rstrip(".")
    place = _PLACE.search(text + ".")
    path = (
        place.group(1).rstrip(".").split(".")[1:]
        if place
        else _find(value, _PARSE_PREFIX.findall(text))
    )
    if unknown := _UNKNOWN_FIELD.search(problem):
        param = ".".join([*path, unknown.group(1)])
        return ApiError(
            400,
            f"{param}: unknown field of {message_class.DESCRIPTOR.full_name}; remove it",
            code="unknown_parameter",
            param=param,
        )
    named = ".".join(path)
    return ApiError(
        400,
        f"{named or 'body'}: {problem[:200]}; correct it",
        code="invalid_value",
        param=named or None,
    )


def _find(value: Any, names: list[str]) -> list[str]:
    """Return the first path in a JSON value that ends in ``names``, else ``names`` themselves."""
    paths = (path for path in _paths(value, []) if names and path[-len(names) :] == names)
    return next(paths, names)


def _paths(value: Any, path: list[str]) -> Iterator[list[str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield [*path, name]
            yield from _paths(inner, [*path, name])
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, path)
