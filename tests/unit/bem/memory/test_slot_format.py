"""Tests of the slot's layout."""

import numpy as np
from bem.memory.slot_format import SLOT_BYTES, quantize_key, quantize_salience


def test_slot_has_240_bytes() -> None:
    """The layout is packed: a session of 1 MiB has more than 4,000 slots."""
    assert SLOT_BYTES == 240


def test_quantized_keys_keep_cosines() -> None:
    """The cosine of two keys changes by less than 0.02."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((50, 96)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    rounded = quantize_key(keys).astype(np.float32) / 127

    assert np.abs(rounded @ rounded.T - keys @ keys.T).max() < 0.02


def test_salience_is_clipped_to_its_range() -> None:
    """A salience outside [0, 1] takes the nearest bound."""
    assert [quantize_salience(value) for value in (-1, 0, 0.5, 1, 9)] == [0, 0, 128, 255, 255]
