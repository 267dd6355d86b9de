"""Validation of scores."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.stats.pvalues import Alternative
from bem_fleet.stats.samples import (
    binary_scale,
    differences,
    validate_choice,
    validate_finite,
    validate_fraction,
    validate_pairs,
    validate_scores,
)


def test_valid_scores_become_float_arrays() -> None:
    """Booleans and nested lists are taken as float64 of the wanted axes."""
    assert validate_scores([True, False], "x").tolist() == [1.0, 0.0]
    assert validate_scores([[1, 2], [3, 4]], "x", ndim=2).dtype == np.float64


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (["a"], "x: values of type <U1"),
        (["0.5", "1"], "x: values of type <U3"),
        ([1 + 0j], "x: values of type complex128"),
        ([None, 1.0], "x: values of type object"),
        ([[1.0], [1.0, 2.0]], "x: not an array of numbers"),
        (np.ma.masked_array([1.0, 2.0], mask=[True, False]), "x: a masked array"),
        ([1e101, 0.0], r"x: 1e\+101 is too large"),
        ([[1.0]], r"x: shape \(1, 1\); wanted \[items\]"),
        ([], "x: no scores"),
        ([1.0, np.inf], "x: 1 of 2 scores are NaN or infinite"),
    ],
)
def test_bad_scores_are_named(values: list[object], named: str) -> None:
    """The error names the field and what is wrong with it."""
    with pytest.raises(InvalidScoresError, match=named):
        validate_scores(values, "x")  # type: ignore[arg-type]


def test_pairs_and_levels_have_limits() -> None:
    """Sides of different lengths, and levels of 0 and 1, are refused."""
    with pytest.raises(InvalidScoresError, match=r"mission has shape \(1,\), baseline \(2,\)"):
        validate_pairs([1.0], [1.0, 2.0])
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(InvalidScoresError, match="alpha is"):
            validate_fraction(level, "alpha")
    assert validate_fraction(0.5, "alpha") == 0.5


def test_rounding_is_no_difference() -> None:
    """Values that differ in the last bits are equal, at any scale; a real difference stays."""
    noisy, round_number = np.array([0.1 + 0.2, 1 / 3 * 3e20]), np.array([0.3, 1e20])

    assert differences(noisy, round_number).tolist() == [0.0, 0.0]
    assert differences(np.array([1e-20]), np.array([0.0])).tolist() == [1e-20]
    assert differences(np.array([1.0 + 1e-9]), np.array([1.0]))[0] == pytest.approx(1e-9)


def test_scale_is_a_power_of_two_near_the_largest_value() -> None:
    """Dividing by it changes no digit, and brings the largest value to between 0.5 and 1."""
    for largest in (1e-90, 0.75, 1.0, 3e39, 1e100):
        values = np.array([largest, -largest / 3])
        scaled = values / binary_scale(values)

        assert 0.5 <= scaled[0] <= 1
        assert (scaled * binary_scale(values) == values).all()
    assert binary_scale(np.zeros(3)) == 1
    assert binary_scale(np.array([np.nan, 2.0])) == 1


def test_choices_and_numbers_are_exact() -> None:
    """Another spelling of a choice, and a number that is none, are refused by name."""
    assert validate_choice("less", Alternative, "alternative") == "less"
    with pytest.raises(InvalidScoresError, match="alternative: 'LESS' is unknown; known: two"):
        validate_choice("LESS", Alternative, "alternative")
    for value in (float("nan"), float("inf")):
        with pytest.raises(InvalidScoresError, match="null is"):
            validate_finite(value, "null")
