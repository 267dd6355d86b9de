"""Format checks of replies, and extraction of the answer from JSON replies."""

import json
import re
from typing import Any

from bem.errors import InvalidScoresError
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError


def strict_answer(reply: str) -> str | None:
    """Return the answer of a reply that is exactly ``{"answer": "…"}``, else None."""
    try:
        value: Any = json.loads(reply)
    except ValueError:
        return None
    if isinstance(value, dict) and list(value) == ["answer"] and isinstance(value["answer"], str):
        return value["answer"]
    return None


def lenient_answer(reply: str) -> str:
    """Return the strict answer, else a quoted answer field, else the whole reply."""
    if (answer := strict_answer(reply)) is not None:
        return answer
    match = re.search(r'"answer"\s*:\s*"([^"]*)"', reply)
    return match.group(1) if match else reply


def answer_format(reply: str) -> float:
    """Return 1.0 if the whole reply is ``{"answer": "…"}``, else 0.0."""
    return float(strict_answer(reply) is not None)


def matches_schema(reply: str, schema: dict[str, Any]) -> float:
    """Return 1.0 if the whole reply is JSON that fits a JSON Schema (2020-12), else 0.0.

    Raises:
        InvalidScoresError: ``schema`` is not a valid JSON Schema.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as err:
        raise InvalidScoresError(f"schema: not a JSON Schema: {err.message}") from err
    try:
        value = json.loads(reply)
    except ValueError:
        return 0.0
    return float(Draft202012Validator(schema).is_valid(value))
