"""Schema of artifact cards: type, range and pattern of each field.

A field of a card's dataclass carries its check as metadata, so that the card's type and its schema
cannot drift apart. Reading and writing apply the same checks.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Any

from bem.errors import ArtifactFormatError

Metadata = dict[str, Callable[[Any], str]]
"""Metadata of a dataclass field; the check returns what is wrong, or an empty text."""

_CHECK = "check"
_OPTIONAL = "optional"
SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN_CHARACTERS = 60


def integer(low: int, high: int) -> Metadata:
    """Return the check of an integer in [low, high]; a boolean is no integer."""

    def check(value: Any) -> str:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            return f"{_shown(value)} is no integer from {low} to {high}"
        return ""

    return {_CHECK: check}


def number(low: float, high: float) -> Metadata:
    """Return the check of a finite number in (low, high]."""

    def check(value: Any) -> str:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low < value <= high:
            return f"{_shown(value)} is no number above {low:g} and at most {high:g}"
        return ""

    return {_CHECK: check}


def text(most: int, pattern: re.Pattern[str] | None = None) -> Metadata:
    """Return the check of a text of at most ``most`` characters that matches ``pattern``."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > most:
            return f"{_shown(value)} is no text of at most {most} characters"
        if pattern and not pattern.fullmatch(value):
            return f"{_shown(value)} is not allowed; it must match {pattern.pattern}"
        return ""

    return {_CHECK: check}


def ascending_integers(low: int, high: int) -> Metadata:
    """Return the check of a list of distinct integers in [low, high], in ascending order."""
    one = integer(low, high)[_CHECK]

    def check(value: Any) -> str:
        if not isinstance(value, list) or not value or any(one(item) for item in value):
            return f"{_shown(value)} is no list of integers from {low} to {high}"
        if any(a >= b for a, b in pairwise(value)):
            return f"{_shown(value)} is not in ascending order without repetition"
        return ""

    return {_CHECK: check}


def integers(low: int, high: int, most: int) -> Metadata:
    """Return the check of a list of at most ``most`` integers in [low, high]."""
    one = integer(low, high)[_CHECK]

    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) > most or any(one(item) for item in value):
            return f"{_shown(value)} is no list of at most {most} integers from {low} to {high}"
        return ""

    return {_CHECK: check}


def distinct_names(allowed: Collection[str]) -> Metadata:
    """Return the check of a list of distinct names out of ``allowed``, at least one."""

    def check(value: Any) -> str:
        known = isinstance(value, list) and all(
            isinstance(item, str) and item in allowed for item in value
        )
        if not known or not value or len(set(value)) != len(value):
            return f"{_shown(value)} is no list of distinct names of {', '.join(sorted(allowed))}"
        return ""

    return {_CHECK: check}


def boolean() -> Metadata:
    """Return the check of a boolean."""
    return {_CHECK: lambda value: "" if isinstance(value, bool) else f"{_shown(value)} is no bool"}


def optional(check: Metadata) -> Metadata:
    """Return the check of a field that is left out of a card while it has its default.

    Cards that were written before the field existed keep their hash.
    """
    return {**check, _OPTIONAL: check[_CHECK]}


def is_optional(entry: Field[Any]) -> bool:
    """Return whether a card may leave out this field."""
    return _OPTIONAL in entry.metadata


def is_left_out(entry: Field[Any], value: Any) -> bool:
    """Return whether a card leaves out this field while it has ``value``."""
    if not is_optional(entry):
        return False
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    return bool(value == default)


def json_object() -> Metadata:
    """Return the check of an object that JSON can express, without NaN and infinities."""

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return f"{_shown(value)} is no object"
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as err:
            return f"is not JSON: {err}"
        return ""

    return {_CHECK: check}


def parse_object(content: bytes, label: str) -> dict[str, Any]:
    """Parse a JSON object strictly: no NaN, no infinities, no repeated keys.

    Args:
        content: UTF-8 text.
        label: Name of the file in error messages.

    Raises:
        ArtifactFormatError: It is no such object.
    """
    try:
        values = json.loads(
            content, object_pairs_hook=_distinct_pairs, parse_constant=_refuse_constant
        )
    # UnicodeDecodeError and JSONDecodeError are ValueErrors; deep nesting is a RecursionError.
    except (ValueError, RecursionError) as err:
        raise ArtifactFormatError(f"{label} is not JSON: {err}") from err
    if not isinstance(values, dict):
        raise ArtifactFormatError(f"{label} is no JSON object; restore the file")
    return values


def check_fields(card_type: type, values: Mapping[str, Any], label: str) -> None:
    """Check names and values of a card's fields.

    Args:
        card_type: Dataclass whose fields carry their checks as metadata.
        values: Value of each field by name.
        label: Name of the file in error messages.

    Raises:
        ArtifactFormatError: A field is missing, unknown, or has a wrong value.
    """
    expected = {entry.name for entry in fields(card_type)}
    required = {entry.name for entry in fields(card_type) if not is_optional(entry)}
    if not required <= set(values) <= expected:
        raise ArtifactFormatError(
            f"{label}: fields do not match {card_type.__name__}; missing "
            f"{sorted(required - set(values))}, unknown {sorted(set(values) - expected)}; train or "
            "import the artifact again"
        )
    for entry in fields(card_type):
        check = entry.metadata.get(_CHECK) if entry.name in values else None
        if check and (problem := check(values[entry.name])):
            raise ArtifactFormatError(f"{label}: {entry.name}: {problem}; correct the card")


def _distinct_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"keys occur twice: {', '.join(repeated)}")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
