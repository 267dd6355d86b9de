"""Learned cache policy: a small scorer of KV entries, trained to predict future attention.

The scorer sees an entry's features only, so it costs a few hundred multiplications an entry. An MLP
is shared by all heads, and each layer and KV head adds a linear term of its own: heads that copy
and heads that attend to their surroundings need different weights. Before training the score is the
pooled attention of the observation window, which is SnapKV's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from bem.cache_policy.entries import Entries
from bem.cache_policy.eviction import (
    POOL_KERNEL,
    SINKS,
    WINDOW,
    mean_key_similarity,
    pool_positions,
    protect_last,
)

FEATURES = (
    "window_attention",
    "pooled_attention",
    "wide_attention",
    "last_attention",
    "key_similarity",
    "key_norm",
    "value_norm",
    "place",
    "distance",
    "sink",
)
"""Names of an entry's features; attention is logarithmic, norms are shares of their head's mean."""

POOLED_FEATURE = 1
HIDDEN = 32
_WIDE_KERNEL, _FLOOR = 17, 1e-6


def entry_features(entries: Entries) -> Tensor:
    """Return the features ``[H, N, 10]`` of entries with the queries of an observation window."""
    parts = torch.cat(list(entries.attention()), 1)  # [H, W, N]
    mass = parts.mean(1)
    heads, count = mass.shape
    place = torch.arange(count, device=mass.device, dtype=torch.float32)
    shared = [
        place / count,
        torch.log1p(count - 1 - place),
        (place < SINKS).float(),
    ]
    own = [
        _log(mass),
        _log(pool_positions(mass, POOL_KERNEL)),
        _log(pool_positions(mass, _WIDE_KERNEL)),
        _log(parts[:, -1]),
        mean_key_similarity(entries.keys),
        _relative_norm(entries.keys),
        _relative_norm(entries.values),
    ]
    return torch.stack([*own, *(one.expand(heads, -1) for one in shared)], -1)


class CacheScorer(nn.Module):
    """Scores the entries of all layers.

    Args:
        layers: Number of layers.
        kv_heads: KV heads of a layer.
        window: Last queries that the features read.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, layers: int, kv_heads: int, window: int = WINDOW) -> None:
        super().__init__()
        width = len(FEATURES)
        self.window = window
        self.hidden = nn.Linear(width, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1, bias=False)
        self.heads = nn.Parameter(torch.zeros(layers, kv_heads, width))
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.heads[..., POOLED_FEATURE] = 1.0
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, features: Tensor, heads: Tensor) -> Tensor:
        """Return scores ``[..., H, N]``: the logarithm of an entry's future attention up to a sum.

        Args:
            features: ``[..., H, N, 10]``.
            heads: ``[..., H, 10]`` linear weights of the layers' heads.
        """
        x = (features - self.center) / self.spread
        shared = self.out(f.gelu(self.hidden(x))).squeeze(-1)
        scores: Tensor = shared + (x * heads.unsqueeze(-2)).sum(-1)
        return scores


class LearnedPolicy:
    """Eviction by a trained scorer.

    Args:
        scorer: Scorer of the base model.
    """

    name = "learned"

    def __init__(self, scorer: CacheScorer) -> None:
        self._scorer = scorer.eval()

    def observed(self, count: int) -> int:
        """Return the length of the observation window."""
        return min(self._scorer.window, count)

    @torch.no_grad()
    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Return the predicted attention; the window is infinite, up to half of the budget."""
        scores = self._scorer(entry_features(entries), self._scorer.heads[layer])
        return protect_last(scores, min(self._scorer.window, budget // 2))


def _log(mass: Tensor) -> Tensor:
    return (mass + _FLOOR).log()


def _relative_norm(vectors: Tensor) -> Tensor:
    norms = vectors.float().norm(dim=-1)
    return norms / norms.mean(1, keepdim=True).clamp(min=_FLOOR)
