"""Similarity of two sets of representations: debiased linear CKA and mean cosine.

Both compare row i of one set with row i of the other. All products are of features, so that
memory is ``[F, F]`` and time is linear in the rows.
"""

import numpy as np
from bem.errors import InvalidScoresError
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def linear_cka(left: Matrix, right: Matrix) -> float:
    """Return the debiased linear CKA, 1 for equal sets up to rotation and scale, about 0 by chance.

    ``HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))`` with linear kernels (Kornblith et al., ICML
    2019) and the unbiased estimator of Song et al. (JMLR 2012): without it CKA rises with F / N
    whatever the sets are. The estimate can be negative.

    Args:
        left: ``[N, F]``, N above F and at least 4.
        right: ``[N, G]``, N above G.

    Raises:
        InvalidScoresError: Rows are too few or differ in number, values are not finite, or a set
            has no variance.
    """
    left, right = _validate(left, "left"), _validate(right, "right")
    rows = len(left)
    if len(right) != rows or rows < 4 or rows <= max(left.shape[1], right.shape[1]):
        raise InvalidScoresError(
            f"left {left.shape} and right {right.shape}: equal numbers of rows are needed, at "
            "least 4 and more than there are features; take more items"
        )
    # The estimator does not depend on the means in exact arithmetic; small numbers keep it stable.
    left, right = left - left.mean(0), right - right.mean(0)
    scale = _hsic(left, left) * _hsic(right, right)
    if not scale > 0:
        raise InvalidScoresError("left, right: a set has no variance, so that CKA is undefined")
    return float(_hsic(left, right) / np.sqrt(scale))


def row_cosines(left: Matrix, right: Matrix) -> Matrix:
    """Return the cosine of each pair of rows, ``[N]`` in [-1, 1]; a zero row has cosine 0.

    Args:
        left: ``[N, F]``.
        right: ``[N, F]``.

    Raises:
        InvalidScoresError: Shapes differ, or values are not finite.
    """
    left, right = _validate(left, "left"), _validate(right, "right")
    if left.shape != right.shape:
        raise InvalidScoresError(f"left {left.shape} and right {right.shape}: shapes differ")
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.einsum("nf,nf->n", left, right) / np.where(norms > 0, norms, 1.0)
    return np.asarray(np.clip(cosines, -1.0, 1.0), dtype=np.float64)


def _hsic(left: Matrix, right: Matrix) -> float:
    """Return the unbiased HSIC of linear kernels without their diagonals, from the features."""
    n = len(left)
    own_left, own_right = (left**2).sum(1), (right**2).sum(1)
    trace = ((left.T @ right) ** 2).sum() - own_left @ own_right
    rows_left = left @ left.sum(0) - own_left  # K 1, diagonal removed
    rows_right = right @ right.sum(0) - own_right
    means = rows_left.sum() * rows_right.sum() / ((n - 1) * (n - 2))
    return float((trace + means - 2 * (rows_left @ rows_right) / (n - 2)) / (n * (n - 3)))


def _validate(values: Matrix, name: str) -> Matrix:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise InvalidScoresError(f"{name}: shape {array.shape}; wanted finite values [N, F]")
    return array
