"""LDC on constructed lines, and the edit distance against its recursion."""

from functools import cache

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.surface_dependence import (
    accuracy_dependence,
    bits_dependence,
    edit_distance,
    surface_change,
)
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text("ab c", max_size=8)


def recursive_distance(left: str, right: str) -> int:
    """Return the edit distance by its definition."""

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(kept, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(TEXTS, TEXTS)
def test_edit_distance_is_its_recursion(left: str, right: str) -> None:
    """It is symmetric, and the surface change lies in [0, 1]."""
    assert edit_distance(left, right) == recursive_distance(left, right)
    assert edit_distance(right, left) == edit_distance(left, right)
    assert 0 <= surface_change(left, right) <= 1


def test_surface_change_is_per_character() -> None:
    """Equal texts 0, texts without a common letter 1, characters beyond the BMP count once."""
    assert surface_change("kitten", "sitting") == pytest.approx(3 / 7)
    assert surface_change("", "") == 0
    assert surface_change("aa", "😀b") == 1
    assert surface_change("😀a", "😀b") == 0.5


def test_slope_of_a_line_is_found_with_its_clean_value() -> None:
    """Two bits per unit of change, whatever the clean bits are; the items average to it."""
    changes = [0.0, 0.1, 0.4, 0.5]
    clean = [1.0, 3.0, 2.0, 2.0]
    found = bits_dependence(
        changes, clean, [c + 2 * u for u, c in zip(changes, clean, strict=True)]
    )

    assert found.slope == pytest.approx(2.0)
    assert found.clean == pytest.approx(2.0)
    assert sum(found.items) / 4 == pytest.approx(2.0)
    assert found.items[0] == 0


def test_slope_is_least_squares_through_the_origin() -> None:
    """Off the line the slope is that of the normal equation."""
    assert bits_dependence([0.5, 1.0], [0, 0], [1.0, 0.5]).slope == pytest.approx(
        (0.5 * 1 + 1 * 0.5) / (0.25 + 1)
    )


def test_lost_accuracy_is_positive() -> None:
    """An answer that is lost at half the surface costs; one that is independent costs 0."""
    lost = accuracy_dependence([0.5, 0.5], [1, 1], [0, 1])

    assert lost.slope == pytest.approx(1.0)
    assert lost.clean == 1
    assert accuracy_dependence([0.5, 0.5], [1, 0], [1, 0]).slope == 0


@pytest.mark.parametrize(
    ("changes", "clean", "scrambled", "problem"),
    [
        ([], [], [], "one or more"),
        ([0.1], [1, 2], [1, 2], "equal lengths"),
        ([1.2], [1], [1], r"outside \[0, 1\]"),
        ([0.0], [1], [2], "no item was changed"),
        ([0.5], [1], [float("nan")], "NaN"),
    ],
)
def test_bad_values_are_named(
    changes: list[float], clean: list[float], scrambled: list[float], problem: str
) -> None:
    """The error says which values are wrong."""
    with pytest.raises(InvalidScoresError, match=problem):
        bits_dependence(changes, clean, scrambled)
