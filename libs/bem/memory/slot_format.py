"""Text slot: the record of one remembered sentence, a constant number of bytes.

A slot holds the sentence itself as token ids, so that an answer copies it exactly, and what finds
it: a dense key in 8 bits and hashes of its content words. The layout is little-endian and packed;
a snapshot is an array of it.
"""

import numpy as np
from numpy.typing import NDArray

SLOT_TOKENS = 48
"""Most tokens of a slot; a longer sentence takes several slots."""

KEY_WIDTH = 96
"""Width of the dense key."""

WORD_HASHES = 16
"""Content words of a sentence that a slot keeps, as 16-bit hashes; 0 is no word."""

MAX_TOKEN_ID = 2**16 - 1
"""Largest token id that a slot can hold."""

MAX_POSITION = 2**32 - 1
"""Largest offset in a session's text, in characters, and largest write number."""

KEY_SCALE = 127.0
"""Factor between a unit key and its 8-bit form."""

SLOT = np.dtype(
    [
        ("ids", "<u2", SLOT_TOKENS),
        ("key", "i1", KEY_WIDTH),
        ("words", "<u2", WORD_HASHES),
        ("begin", "<u4"),
        ("order", "<u4"),
        ("touched", "<u4"),
        ("tokens", "u1"),
        ("salience", "u1"),
        ("reads", "u1"),
        ("entities", "u1"),
    ]
)
"""Fields: token ids, key, hashes (those of entities first), offset in the session's text, number of
the write (from 1; 0 is a free slot), number of the write or read that last used it, tokens,
salience in 255ths, reads (saturating), and how many of the hashes are entities."""

SLOT_BYTES = SLOT.itemsize
"""Bytes of a slot."""

Slots = NDArray[np.void]


def quantize_key(keys: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return unit keys ``[..., 96]`` in 8 bits; the error of a cosine is about 0.01."""
    return np.clip(np.rint(keys * KEY_SCALE), -127, 127).astype(np.int8)


def quantize_salience(salience: float) -> int:
    """Return a salience in [0, 1] in 255ths."""
    return round(255 * min(1.0, max(0.0, salience)))
