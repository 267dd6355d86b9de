"""How thresholds are chosen."""

import numpy as np
from bem_fleet.guard.training.head_training import threshold, thresholds, worst
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=60), st.floats(0, 0.5))
def test_no_more_harmless_texts_reach_the_threshold_than_allowed(
    scores: list[float], share: float
) -> None:
    """The share that is allowed holds on the texts that it was chosen on."""
    read = np.array(scores, dtype=np.float32)
    limit = threshold(read, share)

    assert 0.5 <= limit <= 0.9999
    if limit < np.float32(0.9999):
        assert (read >= limit).sum() <= share * len(read)


def test_all_heads_together_hold_no_more_than_their_share() -> None:
    """Six heads that misread different texts do not add up to six shares."""
    rng = np.random.default_rng(0)
    read = rng.random((1000, 6)).astype(np.float32)
    limits = np.array(thresholds(read, 0.02), dtype=np.float32)

    held = (read >= limits).any(axis=1).mean()
    assert 0.01 <= held <= 0.02


def test_the_worst_window_speaks_for_its_text() -> None:
    """Scores of windows are gathered by text, head by head."""
    scores = np.array([[0.1, 0.9], [0.7, 0.2], [0.3, 0.3]], dtype=np.float32)
    places, read = worst(scores, np.array([4, 4, 9]))

    assert places.tolist() == [4, 9]
    assert np.allclose(read, [[0.7, 0.9], [0.3, 0.3]])
