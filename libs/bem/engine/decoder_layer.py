"""Decoder layer of every model family, by torch operations; ``bem.model_families`` declares them.

The layers are written out instead of calling those of transformers: projections are fused, masks
and rotary angles are planned once per pass instead of once per layer, and attention reads views of
the KV cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.adapters.joined_sites import add_sites
from bem.backbone import Backbone
from bem.engine.attention_inputs import AttentionInputs, FrozenNorm
from bem.engine.kv_cache import AttentionPlan, KeyValueStore, WindowPlan
from bem.engine.linear import LinearLayer, fuse_and_quantize, quantize_site
from bem.model_families import Constants


class DecoderLayer:
    """One decoder layer; it shares the backbone's weights, or takes them over to quantise them.

    Args:
        backbone: Model, whose linear layers may be adapter sites.
        index: Index of the layer.
    """

    def __init__(self, backbone: Backbone, index: int) -> None:
        config, kind = backbone.model.config, backbone.weight_format
        family, block = backbone.family, backbone.layers[index]
        attention, mlp = block.self_attn, block.mlp
        self._heads = config.num_attention_heads, config.num_key_value_heads
        self._constants: Constants = family.constants(config)
        self._gelu = family.activation == "gelu"
        self._inputs = AttentionInputs(backbone, index)
        # Outputs of norms have outliers and need wide inputs; the inputs of the other two do not.
        qkv_modules = [getattr(attention, name) for name in family.qkv]
        qkv = fuse_and_quantize(qkv_modules, kind, wide_inputs=True)
        gate_up_modules = [getattr(mlp, name) for name in family.gate_up]
        gate_up = fuse_and_quantize(gate_up_modules, kind, wide_inputs=True)
        attention.o_proj, out = quantize_site(attention.o_proj, kind)
        mlp.down_proj, down = quantize_site(mlp.down_proj, kind)
        self.linears: tuple[LinearLayer, ...] = (qkv, out, gate_up, down)
        # ``forward`` is called directly: module hooks take as long as a small product.
        self._qkv = add_sites(qkv.forward, qkv_modules)
        self._gate_up = add_sites(gate_up.forward, gate_up_modules)
        self._out, self._down = attention.o_proj.forward, mlp.down_proj.forward
        self._shards = backbone.shards
        self._attention_output_norm = _norm_of(backbone, block, family.attention_norms.after)
        self._mlp_norm = _norm_of(backbone, block, family.mlp_norms.before)
        self._mlp_output_norm = _norm_of(backbone, block, family.mlp_norms.after)

    def run(self, index: int, hidden: Tensor, plan: AttentionPlan, store: KeyValueStore) -> Tensor:
        """Map ``hidden [R, T, F]`` to the input of the next layer."""
        attended = self._sum(self._out(self._attend(index, hidden, plan, store)))
        hidden = self._add(hidden, _apply(self._attention_output_norm, attended))
        gate, up = self._gate_up(_apply(self._mlp_norm, hidden)).chunk(2, -1)
        gate = f.gelu(gate, approximate="tanh") if self._gelu else f.silu(gate)
        return self._add(hidden, _apply(self._mlp_output_norm, self._sum(self._down(gate * up))))

    def queries(self, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the queries ``[R, T, Q, D]`` of ``hidden [R, T, F]``, as ``AttentionInputs``."""
        view = self._inputs.view(plan)
        return self._inputs.queries(hidden, self._qkv, view.cos, view.sin)

    def _sum(self, partial: Tensor) -> Tensor:
        """Return the sum over the processes that hold the model."""
        return partial if self._shards is None else self._shards.sum(partial)

    def _add(self, residual: Tensor, update: Tensor) -> Tensor:
        factor = self._constants.residual
        return residual + (update if factor == 1 else update * factor)

    def _attend(
        self, index: int, hidden: Tensor, plan: AttentionPlan, store: KeyValueStore
    ) -> Tensor:
        rows, tokens, _ = hidden.shape
        query_heads, kv_heads = self._heads
        view = self._inputs.view(plan)
        both, new_values = self._inputs.project(hidden, self._qkv, view.cos, view.sin)
        keys, values = store.write(index, plan, both[:, :, query_heads:], new_values)
        q = both[:, :, :query_heads]
        # With one token, query heads that share keys are laid out like tokens of one head.
        single = tokens == 1
        q = q.reshape(rows, kv_heads, -1, q.shape[-1]) if single else q.transpose(1, 2)
        if plan.row_index is not None:
            q = q.new_zeros(plan.slot_count, *q.shape[1:]).index_copy_(0, plan.row_index, q)
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
