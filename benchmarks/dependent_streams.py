"""Streams with dependence and heavy tails, for the benchmarks of canary statistics.

All streams are stationary, so that the mean under the null hypothesis is the same at each pair.
"""

import math

import numpy as np
from bem_fleet.stats.samples import FloatArray

Size = tuple[int, int]


def autoregressive(rng: np.random.Generator, size: Size, coefficient: float) -> FloatArray:
    """Return normal streams of unit variance and a correlation of ``coefficient`` in a row.

    Args:
        rng: Random generator.
        size: Number of streams and of pairs.
        coefficient: Correlation of two neighbouring pairs, from 0 to below 1.
    """
    values = rng.standard_normal(size)
    if coefficient:
        step = math.sqrt(1 - coefficient**2)
        for pair in range(1, size[1]):
            values[:, pair] = coefficient * values[:, pair - 1] + step * values[:, pair]
    return values


def spells(rng: np.random.Generator, size: Size, share: float, length: float) -> FloatArray:
    """Return 1 within spells of geometric length and 0 elsewhere.

    Args:
        rng: Random generator.
        size: Number of streams and of pairs.
        share: Share of the pairs within spells, between 0 and 1.
        length: Mean length of a spell in pairs, at least 1; 1 gives independent pairs.
    """
    if length <= 1:
        return (rng.random(size) < share).astype(np.float64)
    begin = share / (1 - share) / length
    state = rng.random(size[0]) < share
    values = np.empty(size)
    for pair in range(size[1]):
        draw = rng.random(size[0])
        state = np.where(state, draw > 1 / length, draw < begin)
        values[:, pair] = state
    return values


def heavy_tails(rng: np.random.Generator, size: Size, index: float) -> FloatArray:
    """Return factors on latencies with a Pareto tail, at least 1.

    Args:
        rng: Random generator.
        size: Number of streams and of pairs.
        index: Tail index, above 0; the mean is infinite at 1 or less.
    """
    return np.asarray(1 + 0.2 * rng.pareto(index, size))
