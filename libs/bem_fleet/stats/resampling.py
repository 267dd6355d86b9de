"""Means of bootstrap resamples, many at once and in bounded memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray

_FEW_VALUES = 64
_CHUNK = 1 << 17
_CODES = 1 << 16


def generator(seed: int) -> np.random.Generator:
    """Return the package's generator: SFC64, the fastest of numpy's that pass its tests."""
    return np.random.Generator(np.random.SFC64(seed))


def resampled_means(table: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw rows of ``table`` with replacement and return the column means of each resample.

    Three exact ways to the same distribution, chosen by the data:
    few distinct rows (exact match, rates): multinomial counts of the distinct rows;
    one or two columns: indices are drawn in chunks and gathered from a centred float32 table;
    more columns: counts of each chunk times the table, one matrix product.
    A chunk holds about 131,072 indices (3 MiB), whatever the number of resamples.

    Args:
        table: [n, columns].
        resamples: How many, R.
        rng: Source of the draws.

    Returns:
        [R, columns].
    """
    n, columns = table.shape
    # Sorting one column is far cheaper than sorting rows.
    distinct, counts = (
        np.unique(table, axis=0, return_counts=True)
        if columns > 1
        else np.unique(table, return_counts=True)
    )
    if len(distinct) <= _FEW_VALUES:
        drawn = rng.multinomial(n, counts / n, size=resamples)
        return np.asarray(drawn @ distinct.reshape(-1, columns) / n)
    centre = table.mean(axis=0)
    small = np.ascontiguousarray(table - centre, dtype=np.float32)
    sums = np.empty((resamples, columns))
    rows = max(1, _CHUNK // n)
    codes = None
    if columns <= 2 and n <= _CODES:
        # Two float32 columns are gathered as one complex number.
        codes = _Codes(small.view(np.float32 if columns == 1 else np.complex64)[:, 0], rows)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        if codes:
            drawn_sums = codes.sums(stop - start, rng)
            sums[start:stop] = drawn_sums[:, None].view(np.float32)
        else:
            sums[start:stop] = _counts(rng.integers(0, n, size=(stop - start, n))) @ small
    return np.asarray(sums / n + centre)


class _Codes:
    """Sums of n draws out of n values, by 16-bit random codes.

    The 65,536 codes are dealt to the values in equal shares; the few that are left over are drawn
    again. That costs a quarter of the random bits of full-width indices and is as uniform.

    Args:
        values: [n], float32 or complex64, n at most 65,536.
        rows: Most sums at a time.
    """

    def __init__(self, values: NDArray[Any], rows: int) -> None:
        n = len(values)
        self._values = values
        self._dealt = _CODES // n * n
        self._table = np.zeros(_CODES, dtype=values.dtype)
        self._table[: self._dealt] = np.repeat(values, _CODES // n)
        self._ones = np.ones(n, dtype=values.dtype)
        self._indices = np.empty((rows, n), dtype=np.intp)
        self._gathered = np.empty((rows, n), dtype=values.dtype)

    def sums(self, rows: int, rng: np.random.Generator) -> NDArray[Any]:
        """Return ``rows`` sums, [rows], in the type of the values."""
        n = len(self._values)
        words = rng.integers(0, 2**64 - 1, (rows, -(-n // 4)), dtype=np.uint64, endpoint=True)
        codes = words.view(np.uint16)[:, :n]
        np.copyto(self._indices[:rows], codes)
        # Every code is within the table, so that "clip" only spares a copy.
        np.take(self._table, self._indices[:rows], out=self._gathered[:rows], mode="clip")
        sums = self._gathered[:rows] @ self._ones
        left_over = codes >= self._dealt if self._dealt < _CODES else np.zeros((rows, 0), bool)
        ends = np.cumsum([np.count_nonzero(row) for row in left_over])
        again = self._values[rng.integers(0, n, size=ends[-1])]
        running = np.concatenate([[0], np.cumsum(again, dtype=np.complex128)])
        redrawn = running[ends] - running[np.concatenate([[0], ends[:-1]])]
        return np.asarray(
            sums + (redrawn if np.iscomplexobj(sums) else redrawn.real), dtype=sums.dtype
        )


def _counts(drawn: NDArray[np.int64]) -> FloatArray:
    """Count in each row of ``drawn`` [rows, n] how often each of 0 … n-1 occurs."""
    rows, n = drawn.shape
    flat = (drawn + np.arange(rows)[:, None] * n).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float32)
