"""Decoder layer of every model family, by torch operations; ``bem.model_families`` declares them.

The layers are written out instead of calling those of transformers: projections are fused, masks
and rotary angles are planned once per pass instead of once per layer, and attention reads views of
the KV cache.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.backbone import Backbone
from bem.engine.kv_cache import AttentionPlan, KeyValueStore, WindowPlan, head_dim, rotate
from bem.engine.linear import LinearLayer, fuse_and_quantize, quantize_site
from bem.model_families import Constants, ModelFamily


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


class DecoderLayer:
    """One decoder layer; it shares the backbone's weights, or takes them over to quantise them.

    Args:
        backbone: Model, whose ``o_proj`` and ``down_proj`` may be adapter sites.
        index: Index of the layer.
    """

    def __init__(self, backbone: Backbone, index: int) -> None:
        config, kind = backbone.model.config, backbone.weight_format
        family, block = backbone.family, backbone.layers[index]
        attention, mlp = block.self_attn, block.mlp
        self._heads = config.num_attention_heads, config.num_key_value_heads
        self._head_width = head_dim(config)
        self._constants: Constants = family.constants(config)
        self._has_window = family.has_window(config, index)
        self._is_rotated = family.is_rotated(config, index)
        self._gelu = family.activation == "gelu"
        self._bias = _joined_bias(attention, family)
        self._qk_norm = family.qk_norm
        self._qk_norms = (
            ()
            if family.qk_norm == "none"
            else (
                FrozenNorm.of(backbone, attention.q_norm),
                FrozenNorm.of(backbone, attention.k_norm),
            )
        )
        # Outputs of norms have outliers and need wide inputs; the inputs of the other two do not.
        qkv_parts = [getattr(attention, name) for name in family.qkv]
        qkv = fuse_and_quantize(qkv_parts, kind, wide_inputs=True)
        gate_up_parts = [getattr(mlp, name) for name in family.gate_up]
        gate_up = fuse_and_quantize(gate_up_parts, kind, wide_inputs=True)
        attention.o_proj, out = quantize_site(attention.o_proj, kind)
        mlp.down_proj, down = quantize_site(mlp.down_proj, kind)
        self.linears: tuple[LinearLayer, ...] = (qkv, out, gate_up, down)
        # ``forward`` is called directly: module hooks take as long as a small product.
        self._qkv, self._gate_up = qkv.forward, gate_up.forward
        self._out, self._down = attention.o_proj.forward, mlp.down_proj.forward
        names = family.attention_norms, family.mlp_norms
        self._before = [_norm_of(backbone, block, one.before) for one in names]
        self._after = [_norm_of(backbone, block, one.after) for one in names]

    def run(self, index: int, hidden: Tensor, plan: AttentionPlan, store: KeyValueStore) -> Tensor:
        """Map ``hidden [R, T, F]`` to the input of the next layer."""
        attended = self._attend(index, _apply(self._before[0], hidden), plan, store)
        hidden = self._add(hidden, _apply(self._after[0], self._out(attended)))
        gate, up = self._gate_up(_apply(self._before[1], hidden)).chunk(2, -1)
        gate = f.gelu(gate, approximate="tanh") if self._gelu else f.silu(gate)
        return self._add(hidden, _apply(self._after[1], self._down(gate * up)))

    def queries(self, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the queries ``[R, T, Q, D]`` of ``hidden [R, T, F]``.

        They are rotated, and scaled so that their products with keys over the root of D are what
        attention weighs the keys by.
        """
        queries = self._project(_apply(self._before[0], hidden), plan)[0][:, :, : self._heads[0]]
        factor = self._constants.attention
        return queries if factor is None else queries * (factor * self._head_width**0.5)

    def _add(self, residual: Tensor, update: Tensor) -> Tensor:
        factor = self._constants.residual
        return residual + (update if factor == 1 else update * factor)

    def _view(self, plan: AttentionPlan) -> AttentionPlan | WindowPlan:
        return plan.window if self._has_window and plan.window is not None else plan

    def _project(self, x: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
        """Return queries and keys ``[R, T, Q + H, D]``, rotated, and values ``[R, T, H, D]``."""
        query_heads, kv_heads = self._heads
        qkv = self._qkv(x)
        if self._bias is not None:
            qkv = qkv + self._bias
        qkv = qkv.unflatten(-1, (query_heads + 2 * kv_heads, self._head_width))
        both, values = qkv[:, :, : query_heads + kv_heads], qkv[:, :, query_heads + kv_heads :]
        if self._qk_norms:
            parts = both.split([query_heads, kv_heads], 2)
            pairs = zip(self._qk_norms, parts, strict=True)
            both = torch.cat([self._normalise(norm, part) for norm, part in pairs], 2)
        if self._is_rotated:
            view = self._view(plan)
            both = rotate(both, view.cos, view.sin)
        return both, values

    def _normalise(self, norm: FrozenNorm, heads: Tensor) -> Tensor:
        """Normalise ``[R, T, H, D]``: each head, or all heads of a token together."""
        if self._qk_norm == "head":
            return norm(heads)
        return norm(heads.flatten(2)).view_as(heads)

    def _attend(self, index: int, x: Tensor, plan: AttentionPlan, store: KeyValueStore) -> Tensor:
        rows, tokens, _ = x.shape
        query_heads, kv_heads = self._heads
        both, new_values = self._project(x, plan)
        keys, values = store.write(index, plan, both[:, :, query_heads:], new_values)
        q = both[:, :, :query_heads]
        # With one token, query heads that share keys are laid out like tokens of one head.
        single = tokens == 1
        q = q.reshape(rows, kv_heads, -1, self._head_width) if single else q.transpose(1, 2)
        if plan.row_index is not None:
            q = q.new_zeros(plan.slot_count, *q.shape[1:]).index_copy_(0, plan.row_index, q)
        view = self._view(plan)
        if self._constants.attention_cap is not None:
            out = capped_attention(q, keys, values, view, self._constants)
        else:
            out = f.scaled_dot_product_attention(
                q,
                keys,
                values,
                attn_mask=view.mask,
                is_causal=view.causal,
                scale=self._constants.attention,
                enable_gqa=not single,
            )
        if plan.row_index is not None:
            out = out[plan.row_index]
        return (out if single else out.transpose(1, 2)).reshape(rows, tokens, -1)


def capped_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    view: AttentionPlan | WindowPlan,
    constants: Constants,
) -> Tensor:
    """Return attention whose products are bounded by ``c tanh(x / c)`` (arXiv 2408.00118).

    Args:
        q: ``[S, Q, T, D]`` queries, or ``[S, H, Q / H, D]`` of one token.
        keys: ``[S, H, K, D]``.
        values: ``[S, H, K, D]``.
        view: Plan, or what differs from it in layers with a window; gives the masks.
        constants: Factor and bound of the products.

    Returns:
        Tensor of the shape of ``q``.
    """
    kv_heads, count = keys.shape[1], keys.shape[2]
    grouped = q.unflatten(1, (kv_heads, -1))  # [S, H, G, T, D]
    products = (
        grouped @ keys.unsqueeze(2).transpose(-1, -2) * (constants.attention or q.shape[-1] ** -0.5)
    )
    products = cap(products, constants.attention_cap)
    if view.causal:
        later = torch.ones(count, count, dtype=torch.bool, device=q.device).triu(1)
        products = products.masked_fill(later, -torch.inf)
    elif view.mask is not None:
        products = products + view.mask.unsqueeze(2)
    weights = products.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (weights @ values.unsqueeze(2)).flatten(1, 2)


def cap(x: Tensor, bound: float | None) -> Tensor:
    """Return ``bound tanh(x / bound)``; ``x`` itself without a bound."""
    return x if bound is None else torch.tanh(x / bound) * bound


def _apply(norm: FrozenNorm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _norm_of(backbone: Backbone, block: Any, name: str) -> FrozenNorm | None:
    return FrozenNorm.of(backbone, getattr(block, name)) if name else None


def _joined_bias(attention: Any, family: ModelFamily) -> Tensor | None:
    """Return the biases of queries, keys and values one behind the other; None without biases."""
    if not family.qkv_bias:
        return None
    return torch.cat([getattr(attention, name).bias.detach() for name in family.qkv])
