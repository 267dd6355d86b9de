"""The forward pass of a Llama-like backbone in two halves, split where the sites begin.

Written out instead of calling transformers' layers: fused projections, one plan of masks and
rotary angles a pass instead of one a layer, and attention on views of the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.adapters.bank import SkillBank
from bem.backbone import Backbone
from bem.engine.kv import KeyValues, SlotCache, Span, head_width


class Layer:
    """One decoder layer; its projections share the memory of the backbone's weights.

    Args:
        block: A transformers Llama layer, whose ``o_proj`` and ``down_proj`` may be sites.
        heads: Query heads and key-value heads.
        width: Of one head.
    """

    def __init__(self, block: Any, heads: tuple[int, int], width: int) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._heads, self._width = heads, width
        self._qkv = _fuse(attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = _fuse(mlp.gate_proj, mlp.up_proj)
        self._out, self._down = attention.o_proj, mlp.down_proj
        self._norms = block.input_layernorm, block.post_attention_layernorm

    def run(self, index: int, hidden: Tensor, span: Span, cache: KeyValues) -> Tensor:
        """Map ``hidden [R, T, F]`` to the next layer's."""
        hidden = hidden + self._out(self._attend(index, _norm(self._norms[0], hidden), span, cache))
        gate, up = f.linear(_norm(self._norms[1], hidden), self._gate_up).chunk(2, -1)
        after: Tensor = hidden + self._down(f.silu(gate) * up)
        return after

    def _attend(self, index: int, x: Tensor, span: Span, cache: KeyValues) -> Tensor:
        rows, tokens, _ = x.shape
        queries, pairs = self._heads
        qkv = f.linear(x, self._qkv).view(rows, tokens, queries + 2 * pairs, self._width)
        turned = _rotate(qkv[:, :, : queries + pairs], span)
        q, k = turned.split([queries, pairs], 2)
        keys, values = cache.write(index, span, k, qkv[:, :, queries + pairs :])
        q = q.transpose(1, 2)  # [R, H, T, D]
        if span.index is not None:
            q = q.new_zeros(span.count, *q.shape[1:]).index_copy_(0, span.index, q)
        out = f.scaled_dot_product_attention(
            q, keys, values, attn_mask=span.mask, is_causal=span.causal, enable_gqa=True
        )
        if span.index is not None:
            out = out[span.index]
        return out.transpose(1, 2).reshape(rows, tokens, queries * self._width)


class Decoder:
    """Runs a Llama-like backbone over the slots of a cache.

    The lower half has no sites, so it does not depend on any code: a prompt passes through it
    first, the controller reads it, and only then the upper half runs with the code.

    Args:
        backbone: The model.
        bank: The skills in its sites, or None.
        cache: Where keys and values lie.
    """

    def __init__(self, backbone: Backbone, bank: SkillBank | None, cache: SlotCache) -> None:
        inner, config = backbone.model.model, backbone.model.config
        heads = config.num_attention_heads, config.num_key_value_heads
        self._layers = [Layer(block, heads, head_width(config)) for block in inner.layers]
        self._embedding: Tensor = inner.embed_tokens.weight
        self._norm = inner.norm
        self._head: Tensor = backbone.model.lm_head.weight
        self._cache = cache
        self.split = bank.first_layer if bank else 0
        self._feature_layer = bank.feature_layer if bank else -1

    def span(self, slots: list[int], starts: list[int], tokens: int) -> Span:
        """Plan a forward of ``tokens`` new tokens a row, beginning at ``starts``."""
        return self._cache.span(slots, starts, tokens)

    def lower(
        self, ids: Tensor, span: Span, cache: KeyValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run ``ids [R, T]`` through the lower half, over ``cache`` if it is not the slots.

        Returns:
            The state before the first site and the state that controllers read, ``[R, T, F]``.
        """
        hidden = features = f.embedding(ids, self._embedding)
        for index in range(self.split):
            hidden = self._layers[index].run(index, hidden, span, cache or self._cache)
            if index == self._feature_layer:
                features = hidden
        return hidden, features

    def upper(self, hidden: Tensor, span: Span, cache: KeyValues | None = None) -> Tensor:
        """Run ``hidden [R, T, F]`` through the upper half, over ``cache`` likewise."""
        for index in range(self.split, len(self._layers)):
            hidden = self._layers[index].run(index, hidden, span, cache or self._cache)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits ``[R, V]`` of the last position of ``hidden [R, T, F]``."""
        return f.linear(_norm(self._norm, hidden[:, -1]), self._head).float()


def one_token(decoder: Decoder, token: int, device: torch.device) -> Tensor:
    """Run a real forward of one token in slot 0; proves that the model answers."""
    with torch.inference_mode():
        span = decoder.span([0], [0], 1)
        ids = torch.tensor([[token]], device=device)
        hidden, _ = decoder.lower(ids, span)
        return decoder.logits(decoder.upper(hidden, span))


def _fuse(*parts: Any) -> Tensor:
    """Return the weights of linear layers as one; the layers keep views of it, not copies."""
    whole: Tensor = torch.cat([part.weight.detach() for part in parts])
    at = 0
    for part in parts:
        rows = part.weight.shape[0]
        part.weight.data = whole[at : at + rows]
        at += rows
    return whole


def _norm(norm: Any, x: Tensor) -> Tensor:
    return f.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, span: Span) -> Tensor:
    """Turn ``x [R, T, H, D]`` by its positions' angles (arXiv 2104.09864, half-split form)."""
    low, high = x.chunk(2, -1)
    return x * span.cos + torch.cat((-high, low), -1) * span.sin
