"""Write batch: the encoded sentences of one part of a text, in a form that a journal keeps.

Encoding needs the model and sums floats in an order that depends on the batch; applying a batch is
integer arithmetic on what encoding rounded. A session that replays its batches is therefore, bit by
bit, the session that wrote them, and needs no model.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bem.errors import MemoryFormatError
from bem.memory.slot_format import KEY_WIDTH, SLOT_TOKENS, WORD_HASHES

WRITE = np.dtype(
    [
        ("ids", "<u2", SLOT_TOKENS),
        ("key", "i1", KEY_WIDTH),
        ("words", "<u2", WORD_HASHES),
        ("begin", "<u4"),
        ("logit", "<f4"),
        ("tokens", "u1"),
        ("entities", "u1"),
    ]
)
"""A sentence before it takes a slot; ``logit`` is the gate's without its term for novelty."""

_MAGIC = b"BEMW\x01"
_DIGEST_BYTES = 16
_MAX_HEADER = 64 * 1024


@dataclass(frozen=True)
class WriteBatch:
    """What one part of a document adds to a session.

    Attributes:
        writes: Sentences in the order of the text, of type ``WRITE``.
        position: Offset after the part in the session's text, in characters.
        pending: End of the part that is not yet a sentence.
        document: Name of the document.
        ends: Whether the document ends with the part.
    """

    writes: NDArray[np.void]
    position: int
    pending: str
    document: str
    ends: bool

    def to_bytes(self) -> bytes:
        """Return the batch with its version and a digest."""
        header = json.dumps(
            {
                "position": self.position,
                "pending": self.pending,
                "document": self.document,
                "ends": self.ends,
            }
        ).encode()
        body = _MAGIC + len(header).to_bytes(4, "little") + header + self.writes.tobytes()
        return body + hashlib.sha256(body).digest()[:_DIGEST_BYTES]

    @classmethod
    def from_bytes(cls, content: bytes) -> "WriteBatch":
        """Return the batch of its bytes.

        Raises:
            MemoryFormatError: The bytes are no batch of this version, or were changed.
        """
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if not body.startswith(_MAGIC):
            raise MemoryFormatError("write batch: begins with other bytes; this version reads 1")
        if hashlib.sha256(body).digest()[:_DIGEST_BYTES] != digest:
            raise MemoryFormatError("write batch: its bytes do not have its digest")
        start = len(_MAGIC) + 4
        size = int.from_bytes(body[len(_MAGIC) : start], "little")
        raw = body[start + size :]
        if size > _MAX_HEADER or len(raw) % WRITE.itemsize:
            raise MemoryFormatError("write batch: its parts do not have their sizes")
        header = json.loads(body[start : start + size])
        writes = np.frombuffer(raw, WRITE).copy()
        return cls(writes=writes, **header)
