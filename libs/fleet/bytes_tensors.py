"""BYTES tensors of the Open Inference Protocol in their raw form.

Each element follows its length: four bytes, unsigned, little-endian.
"""

import struct
from collections.abc import Iterable, Iterator

_LENGTH = struct.Struct("<I")


def pack(elements: Iterable[bytes]) -> bytes:
    """Return the raw contents of a BYTES tensor."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def unpack(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a raw BYTES tensor.

    Raises:
        ValueError: A length or an element is cut off.
    """
    position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        if start > len(raw):
            raise ValueError("ends within a length prefix")
        (size,) = _LENGTH.unpack_from(raw, position)
        position = start + size
        if position > len(raw):
            raise ValueError(f"ends within an element of {size} bytes")
        yield raw[start:position]
