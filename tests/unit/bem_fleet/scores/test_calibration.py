"""Expected calibration error."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.calibration import calibration_gaps, expected_calibration_error
from hypothesis import given
from hypothesis import strategies as st

UNIT = st.floats(0, 1)


def test_known_values() -> None:
    """Certain and right is 0, certain and wrong is 1, 0.8 sure and half right is 0.3."""
    assert expected_calibration_error([1.0, 1.0], [1, 1]) == 0.0
    assert expected_calibration_error([1.0, 1.0], [0, 0]) == 1.0
    assert expected_calibration_error([0.8] * 4, [1, 0, 1, 0]) == pytest.approx(0.3)
    # Two bins of two: |1 - 0.9| and |0.5 - 0.1|, each half of the items.
    assert expected_calibration_error([0.9, 0.9, 0.1, 0.1], [1, 1, 1, 0]) == pytest.approx(0.25)


@given(st.lists(st.tuples(UNIT, st.booleans()), min_size=1), st.integers(1, 20))
def test_mean_of_gaps_is_the_sum_over_bins(pairs: list[tuple[float, bool]], bins: int) -> None:
    """ECE by items equals ECE by bins as the papers write it."""
    sure, right = zip(*pairs, strict=True)
    edges = np.ceil(np.array(sure) * bins).clip(1, bins)
    wanted = 0.0
    for edge in set(edges):
        at = edges == edge
        wanted += (
            at.sum() / len(sure) * abs(np.mean(np.array(right)[at]) - np.mean(np.array(sure)[at]))
        )

    assert expected_calibration_error(sure, right, bins=bins) == pytest.approx(wanted)
    assert len(calibration_gaps(sure, right, bins=bins)) == len(sure)


def test_bad_input_is_named() -> None:
    """Lengths, range and bins are checked."""
    for sure, right in (([], []), ([0.5], [1, 0]), ([1.5], [1]), ([float("nan")], [1])):
        with pytest.raises(InvalidScoresError):
            expected_calibration_error(sure, right)
    with pytest.raises(InvalidScoresError, match="bins"):
        expected_calibration_error([0.5], [1], bins=0)
