"""Vectorised bootstrap resampling of means in bounded memory.

Example: a table of 1,000 exact-match differences has only the three distinct values -1, 0 and 1.
Drawing 1,000 rows with replacement is then one multinomial draw of three counts, and 10,000
resamples are a [10,000, 3] matrix times three values instead of 10,000,000 gathered rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.stats.samples import FloatArray, binary_scale

_MAX_DISTINCT = 64
_CHUNK_INDICES = 1 << 17
_CODE_COUNT = 1 << 16


def make_generator(seed: int) -> np.random.Generator:
    """Return a random generator of the package's algorithm, SFC64.

    SFC64 is the fastest of numpy's bit generators that pass the statistical test suites.
    """
    return np.random.Generator(np.random.SFC64(seed))


def resampled_means(table: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw rows of ``table`` with replacement and return the column means of each resample.

    The data select one of three algorithms with the same distribution:

    - few distinct rows (exact match, rates): multinomial counts of the distinct rows;
    - one or two columns: chunks of random indices, gathered from a centred float32 table;
    - more columns: occurrence counts of each chunk times the table, one matrix product.

    A chunk holds about 131,072 indices (3 MiB), independent of the number of resamples.

    Args:
        table: Values, [n, columns].
        resamples: Number of resamples, R.
        rng: Random generator.

    Returns:
        Column means, [R, columns].
    """
    n, columns = table.shape
    # Sorting one column is far cheaper than sorting rows.
    distinct, counts = (
        np.unique(table, axis=0, return_counts=True)
        if columns > 1
        else np.unique(table, return_counts=True)
    )
    if len(distinct) <= _MAX_DISTINCT:
        drawn = rng.multinomial(n, counts / n, size=resamples)
        return np.asarray(drawn @ distinct.reshape(-1, columns) / n)
    # float32 sums of centred values keep 7 digits of the spread; of raw latencies, say 1,000 +- 1,
    # they would keep 4.
    centre = table.mean(axis=0)
    scale = binary_scale(table - centre)
    small = np.ascontiguousarray((table - centre) / scale, dtype=np.float32)
    sums = np.empty((resamples, columns))
    rows = max(1, _CHUNK_INDICES // n)
    codes = None
    if columns <= 2 and n <= _CODE_COUNT:
        # Two float32 columns are gathered as one complex64 number: one lookup instead of two.
        codes = _CodeSampler(small.view(np.float32 if columns == 1 else np.complex64)[:, 0], rows)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        if codes:
            drawn_sums = codes.sums(stop - start, rng)
            sums[start:stop] = drawn_sums[:, None].view(np.float32)
        else:
            sums[start:stop] = (
                _occurrence_counts(rng.integers(0, n, size=(stop - start, n))) @ small
            )
    return np.asarray(sums / n * scale + centre)


class _CodeSampler:
    """Sums of n draws with replacement out of n values, by 16-bit random codes.

    Each value owns 65,536 // n of the 65,536 codes. The remaining codes would bias the draw, so a
    code among them is drawn again at full width. This needs a quarter of the random bits of 64-bit
    indices and is exactly uniform. With n = 3 each value owns 21,845 codes and code 65,535 is
    redrawn.

    Args:
        values: Values to draw from, [n], float32 or complex64, n at most 65,536.
        rows: Largest number of sums in one call.
    """

    def __init__(self, values: NDArray[Any], rows: int) -> None:
        n = len(values)
        self._values = values
        self._owned = _CODE_COUNT // n * n
        self._table = np.zeros(_CODE_COUNT, dtype=values.dtype)
        self._table[: self._owned] = np.repeat(values, _CODE_COUNT // n)
        self._ones = np.ones(n, dtype=values.dtype)
        self._indices = np.empty((rows, n), dtype=np.intp)
        self._gathered = np.empty((rows, n), dtype=values.dtype)

    def sums(self, rows: int, rng: np.random.Generator) -> NDArray[Any]:
        """Return ``rows`` sums of n draws each, [rows], in the type of the values."""
        n = len(self._values)
        words = rng.integers(0, 2**64 - 1, (rows, -(-n // 4)), dtype=np.uint64, endpoint=True)
        codes = words.view(np.uint16)[:, :n]
        np.copyto(self._indices[:rows], codes)
        # Every code lies within the table; "clip" skips numpy's buffered copy for bounds errors.
        np.take(self._table, self._indices[:rows], out=self._gathered[:rows], mode="clip")
        sums = self._gathered[:rows] @ self._ones
        # Unowned codes gathered a 0; replace them by draws of full width. One cumulative sum over
        # all redrawn values gives the total of each row as a difference of two entries.
        unowned = codes >= self._owned if self._owned < _CODE_COUNT else np.zeros((rows, 0), bool)
        ends = np.cumsum([np.count_nonzero(row) for row in unowned])
        again = self._values[rng.integers(0, n, size=ends[-1])]
        running = np.concatenate([[0], np.cumsum(again, dtype=np.complex128)])
        redrawn = running[ends] - running[np.concatenate([[0], ends[:-1]])]
        return np.asarray(
            sums + (redrawn if np.iscomplexobj(sums) else redrawn.real), dtype=sums.dtype
        )


def _occurrence_counts(drawn: NDArray[np.int64]) -> FloatArray:
    """Return how often each of 0 to n-1 occurs in each row of ``drawn``, [rows, n]."""
    rows, n = drawn.shape
    flat = (drawn + np.arange(rows)[:, None] * n).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float32)
