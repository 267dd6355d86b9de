"""Controller: a small network that sets an adapter's code from features of the prompt."""

import torch
from torch import Tensor, nn

CHUNK_SMOOTHING = 0.7
"""Weight of the previous code in the exponential moving average over chunks."""


class Controller(nn.Module):
    """Sets the code (rank-wise gate vector) of one adapter for a prefix, a chunk or each token.

    A fresh controller returns a code of ones, which is plain LoRA; training moves it in
    ``(0, 2)``. A second head estimates the uncertainty and shrinks the code towards zero, where
    the output is that of the base model.

    Args:
        feature_dim: Width F of the features (the pooled hidden state of a low layer).
        rank: Rank r of the adapter.
        hidden: Width of the hidden layer.
        active: Number of gates that are kept, the largest of a code, the others being 0 (a dynamic
            rank mask); 0 keeps all.
    """

    def __init__(self, feature_dim: int, rank: int, hidden: int = 32, *, active: int = 0) -> None:
        super().__init__()
        self.active = active
        # Names of submodules are tensor names in stored artifacts.
        self.norm = nn.LayerNorm(feature_dim, elementwise_affine=False)
        self.inner = nn.Linear(feature_dim, hidden)
        self.code = nn.Linear(hidden, rank)
        self.token_code = nn.Linear(hidden, rank)
        self.unsure = nn.Linear(hidden, 1)
        for head in (self.code, self.token_code, self.unsure):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def prefix(self, features: Tensor) -> Tensor:
        """Return the code of a prompt: ``features [R, F]`` to ``[R, r]`` in (0, 2)."""
        inner = self._inner(features)
        code = (1 + torch.tanh(self.code(inner))) * (1 - self.uncertainty(features))
        return self._keep_largest(code)

    def chunk(self, features: Tensor, previous: Tensor) -> Tensor:
        """Smooth over chunks: ``0.7 previous + 0.3 prefix(features)``, both ``[R, r]``."""
        return self._keep_largest(
            CHUNK_SMOOTHING * previous + (1 - CHUNK_SMOOTHING) * self.prefix(features)
        )

    def token(self, hidden: Tensor, code: Tensor) -> Tensor:
        """Refine ``code [R, r]`` by each token's state ``hidden [R, T, F]`` to ``[R, T, r]``.

        Use it on ``down_proj`` only, where no cached key or value depends on the code.
        """
        return code.unsqueeze(1) * (1 + torch.tanh(self.token_code(self._inner(hidden))))

    def uncertainty(self, features: Tensor) -> Tensor:
        """Return the estimated uncertainty: ``[R, F]`` to ``[R, 1]`` in [0, 1).

        It is ``relu(tanh(.))`` rather than a sigmoid, so that a fresh controller returns exactly
        zero.
        """
        return torch.relu(torch.tanh(self.unsure(self._inner(features))))

    def is_constant(self) -> bool:
        """Return whether ``prefix`` is the same for all features, as in plain LoRA."""
        return not (self.code.weight.any() or self.unsure.weight.any())

    def _keep_largest(self, code: Tensor) -> Tensor:
        """Set all but the ``active`` largest gates of ``code [R, r]`` to zero."""
        if not 0 < self.active < code.shape[-1]:
            return code
        kept = code.topk(self.active, dim=-1).indices
        return code * torch.zeros_like(code).scatter_(-1, kept, 1.0)

    def _inner(self, features: Tensor) -> Tensor:
        inner: Tensor = torch.tanh(self.inner(self.norm(features)))
        return inner


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average ``hidden [R, T, F]`` over the tokens where ``mask [R, T]`` is true, to ``[R, F]``."""
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
