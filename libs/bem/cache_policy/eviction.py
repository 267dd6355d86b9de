"""Eviction policies: each scores the entries of a layer, and the highest scores stay.

All work per layer and KV head: heads of one layer keep different positions but equally many. Query
heads that share a KV head (GQA) are summed before entries are ranked, because they read the same
entry. Every policy is applied once, when the prompt is complete; generated tokens stay.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.cache_policy.entries import Entries, attention_mass

SINKS = 4
"""First positions that StreamingLLM keeps."""

WINDOW, POOL_KERNEL = 32, 5
"""Last queries that SnapKV reads, and positions over which it averages their attention."""


class EvictionPolicy(Protocol):
    """Scores the entries of a layer."""

    @property
    def name(self) -> str:
        """Name in settings and reports."""
        ...

    def observed(self, count: int) -> int:
        """Return how many of the last queries of a prompt of ``count`` tokens it needs."""
        ...

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the scores ``[H, N]`` of a layer's entries; infinite ones always stay.

        Args:
            layer: Index of the layer.
            entries: Keys, values and the queries that ``observed`` asks for.
            budget: Entries of each head that will stay, at least 1.
        """
        ...


class SinkWindowPolicy:
    """StreamingLLM (arXiv 2309.17453): the first positions and the last ones.

    The paper renumbers positions within the cache so that text beyond the context can be read. A
    prompt fits the context, so the angles stay as cached and the result is that of a mask.
    """

    name = "streaming_llm"

    def observed(self, count: int) -> int:
        """Return 0: only positions count."""
        del count
        return 0

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the positions; those of the sinks are infinite."""
        del layer
        positions = torch.arange(entries.count, device=entries.keys.device, dtype=torch.float32)
        positions[: min(SINKS, budget // 2)] = float("inf")
        return positions.expand(entries.keys.shape[0], -1)


class HeavyHitterPolicy:
    """H2O (arXiv 2306.14048): accumulated attention of all queries, and the most recent half.

    Attention is accumulated over the whole prompt before anything is evicted.
    """

    name = "h2o"

    def observed(self, count: int) -> int:
        """Return all queries."""
        return count

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the accumulated attention; half of the budget is recent and infinite."""
        del layer
        return protect_last(attention_mass(entries), budget // 2)


class ObservationWindowPolicy:
    """SnapKV (arXiv 2404.14469): attention of the last queries, averaged over neighbours.

    Args:
        window: Last queries that vote, and positions that always stay.
        kernel: Positions of the average, an odd number.
    """

    name = "snapkv"

    def __init__(self, window: int = WINDOW, kernel: int = POOL_KERNEL) -> None:
        self._window, self._kernel = window, kernel

    def observed(self, count: int) -> int:
        """Return the length of the window."""
        return min(self._window, count)

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the pooled attention; the window itself is infinite, up to half of the budget."""
        del layer
        pooled = pool_positions(attention_mass(entries), self._kernel)
        return protect_last(pooled, min(self._window, budget // 2))


class KeyDiversityPolicy:
    """KeyDiff (arXiv 2504.15364): keys unlike the mean direction of their head stay.

    It reads no query, so a question asked later cannot influence what stays.
    """

    name = "keydiff"

    def observed(self, count: int) -> int:
        """Return 0: only keys count."""
        del count
        return 0

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the negated cosine to the mean of the unit keys, -1 to 1."""
        del layer, budget
        return -mean_key_similarity(entries.keys)


EVICTION_POLICIES: dict[str, Callable[[], EvictionPolicy]] = {
    "streaming_llm": SinkWindowPolicy,
    "h2o": HeavyHitterPolicy,
    "snapkv": ObservationWindowPolicy,
    "keydiff": KeyDiversityPolicy,
}
"""Policies without learned weights, by name."""


def kept_positions(count: int, share: float) -> int:
    """Return how many entries of each head a share of ``count`` keeps, rounded up.

    Args:
        count: Positions of the prompt, at least 1.
        share: Share of the bytes, above 0 and at most 1.
    """
    # A product such as 30 x 0.1 is above its value by the last bit.
    return min(count, max(1, math.ceil(count * share - 1e-9)))


def kept_entries(scores: Tensor, budget: int) -> Tensor:
    """Return the positions ``[H, budget]`` with the highest of ``scores [H, N]``, ascending.

    Of equal scores the earlier position stays, so that the choice is the same on every machine.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return order[:, :budget].sort(dim=1).values


def protect_last(scores: Tensor, count: int) -> Tensor:
    """Return ``scores [H, N]`` in which the last ``count`` positions are infinite."""
    protected = scores.clone()
    if count:
        protected[:, -count:] = float("inf")
    return protected


def pool_positions(scores: Tensor, kernel: int) -> Tensor:
    """Return the average of ``scores [H, N]`` over ``kernel`` neighbours; outside counts as 0."""
    return f.avg_pool1d(scores[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]


def mean_key_similarity(keys: Tensor) -> Tensor:
    """Return the cosine ``[H, N]`` of ``keys [H, N, D]`` to the mean of the unit keys."""
    unit = f.normalize(keys.float(), dim=-1)
    return f.cosine_similarity(unit, unit.mean(1, keepdim=True), dim=-1)
