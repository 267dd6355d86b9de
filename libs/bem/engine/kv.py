"""The key-value cache: one slot of fixed length a row, allocated once."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bem.backbone import Backbone


class SlotCache:
    """Keys and values of all rows, ``[L, rows, H, C, D]`` each.

    It stands where the decoder layers expect a transformers ``Cache``: they call ``update`` only.

    Args:
        backbone: Tells layers, heads, width, type and device.
        rows: Number of requests that run at once.
        context_tokens: Positions of each row.
    """

    def __init__(self, backbone: Backbone, *, rows: int, context_tokens: int) -> None:
        config = backbone.model.config
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, context_tokens, width)
        like = backbone.model.lm_head.weight
        self.keys = _zeros(shape, like)
        self.values = _zeros(shape, like)
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._positions = torch.zeros(0, 0, dtype=torch.int64)
        self._length = 0

    def aim(self, rows: Tensor, positions: Tensor) -> None:
        """Direct the updates that follow to ``rows [R]`` at ``positions [R, T]``."""
        self._rows, self._positions = rows, positions
        self._length = int(positions.max()) + 1

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store ``[R, H, T, D]`` and return all keys and values up to the longest row's end."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        rows = self._rows[:, None]
        keys[rows, :, self._positions] = key_states.transpose(1, 2)
        values[rows, :, self._positions] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return the additive mask ``[R, 1, T, length]``: no row sees a later position."""
        columns = torch.arange(self._length, device=self._positions.device)
        hidden = columns > self._positions[:, None, :, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=columns.device).masked_fill(
            hidden, torch.finfo(dtype).min
        )


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros of ``like``'s type and device; on a CPU pages are taken when first written."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    size = math.prod(shape) * like.element_size()
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(like.dtype).reshape(shape)
