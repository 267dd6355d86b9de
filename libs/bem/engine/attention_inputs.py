"""Queries, keys and values of a layer: norm, projection, biases, norms of heads, and rotation.

The torch layers compute all of them. The compiled layers have code of their own, and use this
module for the queries that cache policies read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.engine.kv_cache import AttentionPlan, WindowPlan, rotate
from bem.model_families import head_dim


@dataclass(frozen=True)
class FrozenNorm:
    """Root-mean-square norm (arXiv 1910.07467).

    Attributes:
        gain: ``[F]`` factors of the normalised values.
        epsilon: Addend of the mean square.
    """

    gain: Tensor
    epsilon: float

    @classmethod
    def of(cls, backbone: Backbone, module: Any) -> Self:
        """Return a norm of a backbone with a copy of its gain."""
        gain = module.weight.detach() + backbone.family.gain_offset
        return cls(gain, backbone.model.config.rms_norm_eps)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise ``x [..., F]``."""
        return torch.rms_norm(x, x.shape[-1:], self.gain, self.epsilon)


class AttentionInputs:
    """Maps a layer's input to queries, keys and values.

    Args:
        backbone: Model; its biases and gains are copied.
        index: Index of the layer.

    Attributes:
        bias: ``[(Q + 2 H) D]`` biases of queries, keys and values; None without biases.
        norms: Norms of queries and of keys; None without norms.
        is_joint: Whether all heads of a token are normalised together.
        is_rotated: Whether queries and keys have rotary embeddings.
        has_window: Whether the layer has a sliding window.
        input_norm: Norm of the layer's input; None without.
    """

    def __init__(self, backbone: Backbone, index: int) -> None:
        config, family = backbone.model.config, backbone.family
        block = backbone.layers[index]
        attention = block.self_attn
        self._heads = config.num_attention_heads, config.num_key_value_heads
        self._head_width = head_dim(config)
        self._factor = family.constants(config).attention
        self.is_joint = family.qk_norm == "projection"
        self.is_rotated = family.is_rotated(config, index)
        self.has_window = family.has_window(config, index)
        name = family.attention_norms.before
        self.input_norm = FrozenNorm.of(backbone, getattr(block, name)) if name else None
        self.bias: Tensor | None = None
        if family.qkv_bias:
            self.bias = torch.cat([getattr(attention, name).bias.detach() for name in family.qkv])
        self.norms: tuple[FrozenNorm, FrozenNorm] | None = None
        if family.qk_norm != "none":
            self.norms = (
                FrozenNorm.of(backbone, attention.q_norm),
                FrozenNorm.of(backbone, attention.k_norm),
            )

    def view(self, plan: AttentionPlan) -> AttentionPlan | WindowPlan:
        """Return the part of a plan that this layer attends with."""
        return plan.window if self.has_window and plan.window is not None else plan

    def project(
        self, hidden: Tensor, qkv: Callable[[Tensor], Tensor], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys, and values.

        Args:
            hidden: ``[R, T, F]`` input of the layer.
            qkv: Fused projection without biases.
            cos: ``[R, T, 1, D]`` cosines.
            sin: ``[R, T, 1, D]`` sines, negated in the lower half of D.

        Returns:
            Rotated ``[R, T, Q + H, D]`` and ``[R, T, H, D]``.
        """
        query_heads, kv_heads = self._heads
        mixed = qkv(hidden if self.input_norm is None else self.input_norm(hidden))
        if self.bias is not None:
            mixed = mixed + self.bias
        mixed = mixed.view(*hidden.shape[:2], query_heads + 2 * kv_heads, self._head_width)
        both, values = mixed[:, :, : query_heads + kv_heads], mixed[:, :, query_heads + kv_heads :]
        if self.norms is not None:
            parts = zip(self.norms, both.split([query_heads, kv_heads], 2), strict=True)
            both = torch.cat([self._normalise(norm, part) for norm, part in parts], 2)
        return (rotate(both, cos, sin) if self.is_rotated else both), values

    def queries(
        self, hidden: Tensor, qkv: Callable[[Tensor], Tensor], cos: Tensor, sin: Tensor
    ) -> Tensor:
        """Return the queries ``[R, T, Q, D]``; arguments as in ``project``.

        They are scaled so that their products with keys over the root of D are what attention
        weighs the keys by.
        """
        queries = self.project(hidden, qkv, cos, sin)[0][:, :, : self._heads[0]]
        return queries if self._factor is None else queries * (self._factor * self._head_width**0.5)

    def _normalise(self, norm: FrozenNorm, heads: Tensor) -> Tensor:
        return norm(heads.flatten(2)).view_as(heads) if self.is_joint else norm(heads)
