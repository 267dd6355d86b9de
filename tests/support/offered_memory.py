"""Recorder of the memory that a KV cache offers to the kernel."""

from collections.abc import Callable

import pytest
import torch
from bem.engine.kv_cache import KVCache
from bem.lazy_memory import LazyZeros
from torch import Tensor


def record_offers(monkeypatch: pytest.MonkeyPatch) -> Callable[[KVCache], Tensor]:
    """Record offers from now on.

    Returns:
        Function that counts how often each element of a cache was offered, ``[L, slots, H, C, D]``:
        twice where both its key and its value were.
    """
    ranges: list[slice] = []
    monkeypatch.setattr(
        LazyZeros, "offer", lambda _, first, last: ranges.append(slice(first, last))
    )

    def counts(cache: KVCache) -> Tensor:
        elements = torch.zeros(cache.keys.numel(), dtype=torch.int)
        for one in ranges:
            elements[one] += 1
        return elements.view(cache.keys.shape)

    return counts
