"""Tests of write batches as bytes."""

import numpy as np
import pytest
from bem.errors import MemoryFormatError
from bem.memory.session import Cursor
from bem.memory.write_batch import WriteBatch

from tests.unit.bem.memory.sessions import encoder


def test_batch_survives_its_bytes() -> None:
    """Writes, text that waits and document come back."""
    batch = encoder().batch(Cursor(), "Ada has 3 keys. And", "böok", ends=False)
    again = WriteBatch.from_bytes(batch.to_bytes())

    assert np.array_equal(again.writes, batch.writes)
    assert (again.position, again.pending, again.document, again.ends) == (19, "And", "böok", False)


def test_changed_bytes_are_refused() -> None:
    """A flipped bit, another version and a part of a batch are errors."""
    content = encoder().batch(Cursor(), "Ada has 3 keys.", "b", ends=True).to_bytes()
    for wrong in (
        content[:20] + bytes([content[20] ^ 1]) + content[21:],
        b"BEMW\x02" + content[5:],
        content[:-1],
        b"",
    ):
        with pytest.raises(MemoryFormatError, match="write batch: "):
            WriteBatch.from_bytes(wrong)
