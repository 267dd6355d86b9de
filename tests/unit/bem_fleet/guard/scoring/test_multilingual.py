"""The packaged multilingual-E5 run by numpy."""

from pathlib import Path

import numpy as np
import pytest
from bem_fleet.guard.scoring.multilingual import MultilingualE5, QuantizedRows

PAIRS = (
    ("How do I bake bread?", "Wie backe ich Brot?"),
    ("The train to Kyiv is late.", "Поезд в Киев опаздывает."),
    ("My sister plays the violin.", "我姐姐拉小提琴。"),
    ("Where is the nearest pharmacy?", "¿Dónde está la farmacia más cercana?"),
)


@pytest.fixture(scope="module")
def model() -> MultilingualE5:
    """Return the packaged model."""
    return MultilingualE5()


def test_translations_are_nearest_to_each_other(model: MultilingualE5) -> None:
    """Of all foreign sentences the translation has the highest cosine."""
    english, foreign = (model.embed([pair[side] for pair in PAIRS]) for side in (0, 1))
    cosines = english @ foreign.T

    assert cosines.argmax(axis=1).tolist() == list(range(len(PAIRS)))
    assert np.allclose(np.linalg.norm(english, axis=1), 1, atol=1e-5)


def test_batches_do_not_change_embeddings(model: MultilingualE5) -> None:
    """A text alone and beside a longer one is the same vector."""
    short, long = PAIRS[0][1], " ".join(pair[1] for pair in PAIRS)

    assert np.abs(model.embed([short])[0] - model.embed([long, short])[1]).max() < 1e-4


def test_blocks_are_decoded() -> None:
    """Byte j of a block has column j in its low bits and column j + 16 in its high bits."""
    block = np.zeros(1, dtype=[("scale", "<f2"), ("codes", "u1", 16)])
    block["scale"], block["codes"][0, 0], block["codes"][0, 1:] = 0.5, 0xA9, 0x88
    row = QuantizedRows(block, 32)[np.array([0])][0]

    assert (row[0], row[16]) == (0.5, 1.0)  # (9 - 8) and (10 - 8) halves
    assert not row[1:16].any()
    assert not row[17:].any()


def test_another_file_is_rejected(tmp_path: Path) -> None:
    """The magic number is checked."""
    path = tmp_path / "other.bin"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ValueError, match="not a model"):
        MultilingualE5(path)
