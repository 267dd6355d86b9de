"""JSON bodies that break parsers, from valid ones and from JSON schemas."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.fuzz import texts
from benchmarks.fuzz.examples import renamed

_MAX_DEPTH = 5
_NUMBERS = (0, 1, -1, 2, 65, 257, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 1e-320, 1e308, 0.5, 2.5)
# Python's encoder writes these as NaN and Infinity, which JSON has not.
_NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"))


def body(
    random_: random.Random, examples: Sequence[Mapping[str, Any]], schema: Mapping[str, Any] | None
) -> bytes:
    """Return the bytes of a body.

    Args:
        random_: Source of randomness.
        examples: Valid bodies of the route.
        schema: JSON schema of the body without references; None if the route states none.
    """
    if schema is not None and (not examples or random_.random() < 0.3):
        value = from_schema(random_, schema)
    elif examples:
        value = renamed(random_.choice(examples), random_)
        for _ in range(random_.choice((0, 1, 1, 1, 2, 3))):
            _change(random_, value)
    else:
        value = anything(random_)
    raw = json.dumps(value, ensure_ascii=random_.random() < 0.5).encode("utf-8", "surrogatepass")
    return _corrupt(random_, raw) if random_.random() < 0.15 else raw


def from_schema(  # noqa: C901, PLR0911 - one return for each type
    random_: random.Random, schema: Mapping[str, Any], depth: int = 0
) -> Any:
    """Return a value that mostly fits a JSON schema: types, enums, bounds at their edges."""
    if random_.random() < 0.1 or depth > _MAX_DEPTH:
        return anything(random_, depth)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return from_schema(random_, random_.choice(schema[key]), depth)
    if "const" in schema or "enum" in schema:
        return random_.choice(schema.get("enum") or [schema.get("const")])
    match schema.get("type"):
        case "object":
            return _object(random_, schema, depth)
        case "array":
            count = random_.choice((0, 1, 1, 2, 3, schema.get("maxItems", 5) + 1))
            items = schema.get("items") or {}
            return [from_schema(random_, items, depth + 1) for _ in range(min(count, 300))]
        case "string":
            return texts.text(random_)
        case "integer" | "number":
            edges = [
                schema[key] for key in ("minimum", "maximum", "exclusiveMinimum") if key in schema
            ]
            return random_.choice([*edges, *(edge + 1 for edge in edges), *_NUMBERS])
        case "boolean":
            return random_.random() < 0.5
        case "null":
            return None
    return anything(random_, depth)


def _object(random_: random.Random, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    made = {
        name: from_schema(random_, inner, depth + 1)
        for name, inner in schema.get("properties", {}).items()
        if random_.random() < (0.95 if name in required else 0.3)
    }
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        for _ in range(random_.randrange(4)):
            made[texts.text(random_)] = from_schema(random_, extra, depth + 1)
    return made


def anything(  # noqa: PLR0911 - one return for each type
    random_: random.Random, depth: int = 0
) -> Any:
    """Return any JSON value, not always one that JSON can hold."""
    kind = random_.randrange(9 if depth < _MAX_DEPTH else 6)
    match kind:
        case 0:
            return None
        case 1:
            return random_.random() < 0.5
        case 2:
            return random_.choice((*_NUMBERS, *_NOT_NUMBERS))
        case 3 | 4:
            return texts.text(random_)
        case 5:
            return random_.choice(("\ud800", "a\udfffb", "text_input", "tiny"))
        case 6:
            return [anything(random_, depth + 1) for _ in range(random_.choice((0, 1, 2, 20)))]
        case 7:
            return _nested(random_.choice((10, 100, 300)))
        case _:
            count = random_.choice((0, 1, 2, 5))
            return {texts.text(random_): anything(random_, depth + 1) for _ in range(count)}


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _change(random_: random.Random, value: Any) -> None:
    """Replace, remove or add one member somewhere in a value, in place."""
    containers = [one for one in _containers(value) if one]
    if not containers:
        return
    container = random_.choice(containers)
    if isinstance(container, dict):
        key = random_.choice(list(container))
        match random_.randrange(8):
            case 0:
                del container[key]
            case 1:
                container[texts.text(random_)] = anything(random_, 3)
            case 2:
                container[key] = [container[key]] * random_.choice((0, 1, 2, 300))
            case _:
                container[key] = anything(random_, 2)
    else:
        container[random_.randrange(len(container))] = anything(random_, 2)


def _containers(value: Any) -> list[Any]:
    """Return the objects and arrays of a value; without recursion, as some are nested deeply."""
    found, pending = [], [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict | list):
            found.append(one)
            pending += one.values() if isinstance(one, dict) else one
    return found


def _corrupt(random_: random.Random, raw: bytes) -> bytes:
    at = random_.randrange(len(raw) + 1)
    match random_.randrange(6):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + random_.randbytes(3) + raw[at:]
        case 2:
            return b"\xef\xbb\xbf" + raw
        case 3:
            return raw.decode("utf-8", "replace").encode("utf-16")
        case 4:
            return b"[" * random_.choice((100, 5_000, 100_000))
        case _:
            return raw[:-1] + b',"model":"tiny","model":null}'
