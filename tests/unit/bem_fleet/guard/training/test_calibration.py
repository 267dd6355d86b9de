"""Calibration of thresholds on benign texts."""

import numpy as np
from bem_fleet.guard.training.calibration import (
    choose_threshold,
    max_per_text,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=60), st.floats(0, 0.5))
def test_false_positive_rate_is_kept(scores: list[float], share: float) -> None:
    """At most the allowed share of the texts reaches the threshold."""
    read = np.array(scores, dtype=np.float32)
    limit = choose_threshold(read, share)

    assert 0.5 <= limit <= 0.9999
    if limit < np.float32(0.9999):
        assert (read >= limit).sum() <= share * len(read)


def test_score_of_a_text_is_its_highest_window() -> None:
    """Window scores are reduced by text, head by head."""
    scores = np.array([[0.1, 0.9], [0.7, 0.2], [0.3, 0.3]], dtype=np.float32)
    indices, read = max_per_text(scores, np.array([4, 4, 9]))

    assert indices.tolist() == [4, 9]
    assert np.allclose(read, [[0.7, 0.9], [0.3, 0.3]])
