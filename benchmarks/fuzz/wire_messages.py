"""Protobuf messages at the level of the wire, from their descriptors.

Messages are written as bytes and not through message classes, because a class cannot hold what a
hostile client sends: text that is not UTF-8, enum values that do not exist, a singular field twice,
two members of a oneof, a field with the wire type of another.
"""

import random
import struct
from collections.abc import Callable

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from benchmarks.fuzz import texts

_MAX_DEPTH = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INTEGERS = (
    *(0, 1, 2, 3, 7, 16, 63, 64, 65, 255, 256, 1024, 65_535, -1, -2, -128),
    *(2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1),
)
_REALS = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 0.999, 2.0, 2.0001, 100.0, -100.0, 1e-45, 1e-320),
    *(3.4e38, 1e308, float("nan"), float("inf"), float("-inf")),
)
_ZIGZAG = (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64)
_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
}


def varint(value: int) -> bytes:
    """Return a varint; a negative value as its two's complement in 64 bits."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, wire_type: int, payload: bytes) -> bytes:
    """Return a field with its tag; a length-delimited payload gets its length."""
    length = varint(len(payload)) if wire_type == _BYTES else b""
    return varint(number << 3 | wire_type) + length + payload


class MessageWriter:
    """Writes messages of a type with random fields.

    Args:
        random_: Source of randomness.
    """

    def __init__(self, random_: random.Random) -> None:
        self._random = random_

    def message(self, descriptor: Descriptor, depth: int = 0) -> bytes:
        """Return a message in which every field is set with a chance of one half."""
        fields = [field for field in descriptor.fields if self._random.random() < 0.5]
        return b"".join(self.field(field, depth) for field in fields)

    def few_fields(self, descriptor: Descriptor, depth: int = 0) -> bytes:
        """Return a message with one or two fields; appended to another message it changes those."""
        if not descriptor.fields:
            return b""
        chosen = self._random.choices(descriptor.fields, k=self._random.choice((1, 1, 2)))
        return b"".join(
            self._nested(field, depth, self.few_fields)
            if field.message_type and self._random.random() < 0.7
            else self.field(field, depth)
            for field in chosen
        )

    def field(self, field: FieldDescriptor, depth: int = 0) -> bytes:
        """Return a field; a repeated one none, once, a few or hundreds of times."""
        if not field.is_repeated:
            return self._one(field, depth)
        count = self._random.choice((0, 1, 1, 1, 2, 3, 70 if depth else 300))
        if field.type in _PACKABLE and self._random.random() < 0.5:
            values = b"".join(self._scalar(field) for _ in range(count))
            return tagged(field.number, _BYTES, values)
        return b"".join(self._one(field, depth) for _ in range(count))

    def _one(self, field: FieldDescriptor, depth: int) -> bytes:
        if field.message_type:
            return self._nested(field, depth, self.message)
        wire_type = _WIRE_TYPES.get(field.type, _VARINT)
        return tagged(field.number, wire_type, self._scalar(field))

    def _nested(
        self, field: FieldDescriptor, depth: int, write: Callable[[Descriptor, int], bytes]
    ) -> bytes:
        kind = field.message_type
        inner = write(kind, depth + 1) if kind and depth < _MAX_DEPTH else b""
        return tagged(field.number, _BYTES, inner)

    def _scalar(self, field: FieldDescriptor) -> bytes:
        wire_type = _WIRE_TYPES.get(field.type, _VARINT)
        if wire_type == _BYTES:
            return self._text(field)
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return _real(self._random.choice(_REALS), wire_type)
        value = self._random.choice(_INTEGERS)
        if field.enum_type and self._random.random() < 0.8:
            value = self._random.choice(field.enum_type.values).number
        if field.type == FieldDescriptor.TYPE_BOOL:
            value = self._random.choice((0, 1, 1, value))
        if wire_type == _VARINT:
            return varint((value << 1) ^ (value >> 63) if field.type in _ZIGZAG else value)
        width = 8 if wire_type == _FIXED64 else 4
        return int(value & (2 ** (8 * width) - 1)).to_bytes(width, "little")

    def _text(self, field: FieldDescriptor) -> bytes:
        encoded = texts.text(self._random, field.name).encode()
        if self._random.random() < 0.03:
            return self._random.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80")) + encoded
        if field.type == FieldDescriptor.TYPE_BYTES and self._random.random() < 0.6:
            return struct.pack("<I", len(encoded)) + encoded  # an element of a raw BYTES tensor
        return encoded


_PACKABLE = frozenset(range(1, 19)) - {
    *(FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES),
    *(FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP),
}


def _real(value: float, wire_type: int) -> bytes:
    if wire_type == _FIXED64:
        return struct.pack("<d", value)
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf"))


def corrupt(  # noqa: PLR0911 - one return for each kind of damage
    raw: bytes, random_: random.Random
) -> bytes:
    """Return a message that no correct client would send.

    It is cut off, has flipped bits, inserted bytes, fields that no type has, wire types that do not
    exist, lengths that lie, or is nested too deeply.
    """
    at = random_.randrange(len(raw) + 1)
    match random_.randrange(8):
        case 0:
            return raw[:at]
        case 1 if raw:
            flipped = bytearray(raw)
            flipped[at % len(raw)] ^= 1 << random_.randrange(8)
            return bytes(flipped)
        case 2:
            return raw[:at] + random_.randbytes(random_.randrange(1, 9)) + raw[at:]
        case 3:
            number = random_.choice((900, 19_000, 50_711, 2**29 - 1))
            return raw + tagged(number, _BYTES, random_.randbytes(12))
        case 4:
            return raw + varint(random_.randrange(1, 9) << 3 | random_.choice((3, 4, 6, 7)))
        case 5:
            return raw + varint(1 << 3 | _BYTES) + varint(random_.choice((2**20, 2**31, 2**63)))
        case 6:
            nested = b""
            for _ in range(random_.choice((90, 110, 300))):
                nested = tagged(random_.choice((1, 2, 3, 5)), _BYTES, nested)
            return raw + nested
        case _:
            return random_.randbytes(random_.randrange(200))
