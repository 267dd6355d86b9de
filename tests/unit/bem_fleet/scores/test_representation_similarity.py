"""CKA against its definition with kernel matrices, and its invariances; cosines by hand."""

import numpy as np
import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.representation_similarity import linear_cka, row_cosines

RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 3))


def unbiased_hsic(left: np.ndarray, right: np.ndarray) -> float:
    """Return HSIC1 of Song et al. (2012) by its formula with kernel matrices."""
    n = len(left)
    k, m = left @ left.T, right @ right.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    last = 2 * (ones @ k @ m @ ones) / (n - 2)
    return float((np.trace(k @ m) + middle - last) / (n * (n - 3)))


def test_cka_is_that_of_the_kernels() -> None:
    """The features give what the kernel matrices give, shifted or not."""
    expected = unbiased_hsic(LEFT, RIGHT) / np.sqrt(
        unbiased_hsic(LEFT, LEFT) * unbiased_hsic(RIGHT, RIGHT)
    )

    assert linear_cka(LEFT, RIGHT) == pytest.approx(expected)
    assert linear_cka(LEFT + 7, RIGHT - 3) == pytest.approx(expected)


def test_cka_ignores_rotation_and_scale_and_is_zero_by_chance() -> None:
    """A rotated and scaled set is the same; independent sets have no more than noise."""
    rotation = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    chance = [linear_cka(RNG.normal(size=(40, 20)), RNG.normal(size=(40, 20))) for _ in range(40)]

    assert linear_cka(LEFT, 3 * LEFT @ rotation) == pytest.approx(1.0)
    assert abs(np.mean(chance)) < 0.05  # the biased estimator gives about 0.5 here


def test_too_few_rows_and_flat_sets_are_refused() -> None:
    """More rows than features are needed, and some variance."""
    with pytest.raises(InvalidScoresError, match="take more items"):
        linear_cka(LEFT[:5], RIGHT[:5])
    with pytest.raises(InvalidScoresError, match="no variance"):
        linear_cka(np.ones((9, 2)), RIGHT[:9])
    with pytest.raises(InvalidScoresError, match="right: shape"):
        linear_cka(LEFT, np.full((12, 3), np.nan))


def test_cosines_are_by_row() -> None:
    """Equal, opposite and orthogonal rows; a zero row has none."""
    left = np.array([[1.0, 0], [1, 1], [2, 0], [0, 0]])
    right = np.array([[5.0, 0], [-1, -1], [0, 3], [1, 1]])

    assert row_cosines(left, right) == pytest.approx([1, -1, 0, 0])
    with pytest.raises(InvalidScoresError, match="shapes differ"):
        row_cosines(left, right[:2])
