"""JSON transcoding of protobuf messages by descriptor, with errors that name the field."""

import json
import re
from typing import Any

from bem_fleet.services.gateway.errors import ApiError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

_PARSE_PREFIX = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN_FIELD = re.compile(r'has no field named "([^"]*)"(?: at "([^"]*)")?')


def parse_json(body: bytes, message_class: type[Message]) -> Message:
    """Return the message that a JSON object describes, in protobuf's JSON mapping.

    Fields may have their proto names or lowerCamelCase names; an empty body is an empty message.

    Args:
        body: JSON text in UTF-8.
        message_class: Message class from any descriptor pool.

    Raises:
        ApiError: The body is not a JSON object, or a field is unknown or has a wrong value; the
            error's param is the path of the field.
    """
    try:
        value = json.loads(body) if body.strip() else {}
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
        raise _field_error(str(err), message_class) from err


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON with proto field names; fields without presence are always there."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _field_error(text: str, message_class: type[Message]) -> ApiError:
    """Return the HTTP error for an error of protobuf's JSON parser.

    The parser nests prefixes: ``Failed to parse sampling field: Failed to parse top_k field:
    Couldn't parse integer …`` becomes param ``sampling.top_k``.
    """
    path = _PARSE_PREFIX.findall(text)
    problem = _PARSE_PREFIX.sub("", text)
    if unknown := _UNKNOWN_FIELD.search(problem):
        name, place = unknown.group(1), (unknown.group(2) or "").split(".")[1:]
        param = ".".join([*place, name])
        return ApiError(
            400,
            f"{param}: unknown field of {message_class.DESCRIPTOR.full_name}; remove it",
            code="unknown_parameter",
            param=param,
        )
    param = ".".join(path)
    return ApiError(
        400,
        f"{param or 'body'}: {problem.splitlines()[0][:200] if problem else 'wrong value'}",
        code="invalid_value",
        param=param or None,
    )
