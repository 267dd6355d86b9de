"""Generated JSON Schemas: a seeded stream of the shapes that callers ask for.

The mixture follows JSONSchemaBench (arXiv 2501.10868): mostly objects of few levels with required
and optional members, enumerations, patterns and formats, some with references, unions and
intersections. Strings and arrays are bounded, so that a model with random weights comes to an end.
"""

from random import Random
from typing import Any

_NAMES = ("id", "name", "größe", "tags", "a b", "kind", "x-1", "items", 'q"uote', "🙂")
_PATTERNS = ("^[A-Z]{2}[0-9]{1,3}$", "^(on|off)$", "^[a-f0-9]{4}(-[a-f0-9]{2})?$", "^[^x]{0,3}$")
_FORMATS = ("date", "time", "ipv4", "uuid")
_DEPTH = 3
_NODE = {"$ref": "#/$defs/node"}
_DEFINITIONS: dict[str, Any] = {
    "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
    "pair": {"type": "array", "prefixItems": [{"type": "boolean"}], "items": False, "minItems": 1},
    "node": {
        "type": "object",
        "properties": {
            "v": {"enum": [1, 2]},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        "required": ["v", "next"],
        "additionalProperties": False,
    },
}


def generate_schema(seed: int) -> dict[str, Any]:
    """Return one schema; its root is an object in nine of ten.

    Args:
        seed: The same seed gives the same schema.
    """
    rng = Random(seed)
    schema = _object(rng, _DEPTH) if rng.random() < 0.9 else _any(rng, _DEPTH)
    schema |= {"$defs": _DEFINITIONS}
    if rng.random() < 0.2:
        schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T"}
    return schema


def _any(rng: Random, depth: int) -> dict[str, Any]:
    makers = [_string, _integer, _number, _enum, _constant, _boolean]
    if depth > 0:
        makers += [_object, _object, _array, _array, _union, _reference, _intersection, _map]
    return rng.choice(makers)(rng, depth - 1)


def _object(rng: Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_NAMES, rng.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _map(rng: Random, depth: int) -> dict[str, Any]:
    low = rng.randint(0, 1)
    return {
        "type": "object",
        "patternProperties": {"^[a-z]{1,2}$": _any(rng, min(depth, 0))},
        "additionalProperties": False,
        "minProperties": low,
        "maxProperties": low + 2,
    }


def _array(rng: Random, depth: int) -> dict[str, Any]:
    low = rng.randint(0, 2)
    array = {"type": "array", "items": _any(rng, min(depth, 1)), "minItems": low}
    if rng.random() < 0.3:
        first = _any(rng, 0)
        return {"type": "array", "prefixItems": [first], "items": False, "minItems": 1}
    return array | {"maxItems": low + rng.randint(0, 2)}


def _union(rng: Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"type": ["integer", "null"], "minimum": -9, "maximum": 9}
    return {"anyOf": [_object(rng, min(depth, 0)), _boolean(rng, depth), {"type": "null"}]}


def _reference(rng: Random, depth: int) -> dict[str, Any]:
    # The definitions are put at the root: see generate_schema.
    del depth
    return {"$ref": f"#/$defs/{rng.choice(sorted(_DEFINITIONS))}"}


def _intersection(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    low = rng.randint(-50, 0)
    return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + rng.randint(0, 60)}]}


def _string(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    way = rng.random()
    if way < 0.2:
        return {"type": "string", "pattern": rng.choice(_PATTERNS)}
    if way < 0.35:
        return {"type": "string", "format": rng.choice(_FORMATS)}
    low = rng.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 6)}


def _integer(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    low = rng.randint(-1000, 1000)
    bounded = {"type": "integer", "minimum": low, "exclusiveMaximum": low + rng.randint(1, 500)}
    return bounded if rng.random() < 0.8 else {"type": "integer", "multipleOf": rng.randint(2, 9)}


def _number(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    low = rng.randint(-20, 20)
    return {"type": "number", "minimum": low, "maximum": low + rng.randint(1, 9) / 2}


def _enum(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    values = ["red", "grün", 'a"b', "back\\slash", 7, 1.5, None, True, [1], {"k": "v"}]
    return {"enum": rng.sample(values, rng.randint(1, 5))}


def _constant(rng: Random, depth: int) -> dict[str, Any]:
    del depth
    return {"const": rng.choice(["v1", 0, False, None, ["x", 2]])}


def _boolean(rng: Random, depth: int) -> dict[str, Any]:
    del rng, depth
    return {"type": "boolean"}
