"""Means of bootstrap resamples, many at once and in bounded memory."""

import numpy as np

from bem.stats.samples import FloatArray

_FEW_VALUES = 64
_CHUNK = 1 << 18


def generator(seed: int) -> np.random.Generator:
    """Return the package's generator: SFC64, the fastest of numpy's that pass its tests."""
    return np.random.Generator(np.random.SFC64(seed))


def resampled_means(table: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw rows of ``table`` with replacement and return the column means of each resample.

    Three exact ways to the same distribution, chosen by the data:
    few distinct rows (exact match, rates): multinomial counts of the distinct rows;
    one column: indices are drawn in chunks and gathered from a centred float32 table;
    several columns: counts of each chunk times the table, one matrix product.
    A chunk holds about 262,144 indices (5 MiB), whatever the number of resamples.

    Args:
        table: [n, columns].
        resamples: How many, R.
        rng: Source of the draws.

    Returns:
        [R, columns].
    """
    n = len(table)
    # Sorting one column is far cheaper than sorting rows.
    distinct, counts = (
        np.unique(table, axis=0, return_counts=True)
        if table.shape[1] > 1
        else np.unique(table, return_counts=True)
    )
    if len(distinct) <= _FEW_VALUES:
        drawn = rng.multinomial(n, counts / n, size=resamples)
        return np.asarray(drawn @ distinct.reshape(-1, table.shape[1]) / n)
    centre = table.mean(axis=0)
    small = np.ascontiguousarray(table - centre, dtype=np.float32)
    means = np.empty((resamples, table.shape[1]))
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, n, size=(stop - start, n))
        if small.shape[1] == 1:
            means[start:stop, 0] = small[:, 0][drawn].mean(axis=1)
        else:
            means[start:stop] = _counts(drawn) @ small / n
    return np.asarray(means + centre)


def cluster_weights(clusters: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw the weights of clusters, each row summing to 1.

    With few clusters the plain bootstrap understates the variance by (S - 1) / S;
    drawing S - 1 of S with replacement removes that (Rao and Wu, 1988).

    Returns:
        [resamples, clusters]; all ones for a single cluster.
    """
    if clusters == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(clusters - 1, np.full(clusters, 1 / clusters), size=resamples)
    return np.asarray(drawn / (clusters - 1))


def _counts(drawn: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> FloatArray:
    """Count in each row of ``drawn`` [rows, n] how often each of 0 … n-1 occurs."""
    rows, n = drawn.shape
    flat = (drawn + np.arange(rows)[:, None] * n).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float32)
