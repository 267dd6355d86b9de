"""The forward pass of a Llama-like backbone in two halves, split where the sites begin.

Written out instead of calling transformers' layers: fused projections, one plan of masks and
rotary angles a pass instead of one a layer, and attention on views of the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine.kv import KeyValues, Scratch, SlotCache, Span, head_width
from bem.engine.native import PackedLinear
from bem.engine.native.layers import NativeLayers, Places, places
from bem.engine.pages import leave_file
from bem.engine.weights import FrozenLinear, Product, hold, take, take_site

Plan = Span | Places


class Layer:
    """One decoder layer; it shares the backbone's weights, or takes them to quantise them.

    Args:
        block: A transformers Llama layer, whose ``o_proj`` and ``down_proj`` may be sites.
        heads: Query heads and key-value heads.
        width: Of one head.
        kind: How weights are held.
    """

    def __init__(self, block: Any, heads: tuple[int, int], width: int, kind: WeightFormat) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._heads, self._width = heads, width
        # What norms give has outliers, what the other two read has none.
        read = (attention.q_proj, attention.k_proj, attention.v_proj)
        qkv = take(read, kind, halves=True)
        gate_up = take((mlp.gate_proj, mlp.up_proj), kind, halves=True)
        attention.o_proj, out = take_site(attention.o_proj, kind)
        mlp.down_proj, down = take_site(mlp.down_proj, kind)
        self.products = (qkv, out, gate_up, down)
        # Called without the hooks of modules: they cost as much as a small product.
        self._qkv, self._gate_up = qkv.forward, gate_up.forward
        self._out, self._down = attention.o_proj.forward, mlp.down_proj.forward
        self._norms = _gain(block.input_layernorm), _gain(block.post_attention_layernorm)

    def run(self, index: int, hidden: Tensor, span: Span, cache: KeyValues) -> Tensor:
        """Map ``hidden [R, T, F]`` to the next layer's."""
        hidden = hidden + self._out(self._attend(index, _norm(self._norms[0], hidden), span, cache))
        gate, up = self._gate_up(_norm(self._norms[1], hidden)).chunk(2, -1)
        after: Tensor = hidden + self._down(f.silu(gate) * up)
        return after

    def _attend(self, index: int, x: Tensor, span: Span, cache: KeyValues) -> Tensor:
        rows, tokens, _ = x.shape
        queries, pairs = self._heads
        qkv = self._qkv(x).view(rows, tokens, queries + 2 * pairs, self._width)
        turned = _rotate(qkv[:, :, : queries + pairs], span)
        q, k = turned[:, :, :queries], turned[:, :, queries:]
        keys, values = cache.write(index, span, k, qkv[:, :, queries + pairs :])
        # One token's query heads that share keys are like neighbouring tokens of one head.
        one = tokens == 1
        q = q.reshape(rows, pairs, -1, self._width) if one else q.transpose(1, 2)  # [R, H, T, D]
        if span.index is not None:
            q = q.new_zeros(span.count, *q.shape[1:]).index_copy_(0, span.index, q)
        out = f.scaled_dot_product_attention(
            q, keys, values, attn_mask=span.mask, is_causal=span.causal, enable_gqa=not one
        )
        if span.index is not None:
            out = out[span.index]
        return (out if one else out.transpose(1, 2)).reshape(rows, tokens, -1)


class TorchLayers:
    """Runs layers one after the other by torch's operations.

    Args:
        backbone: Its layers, which are shared or, quantised, taken.
        cache: Where keys and values lie.
    """

    def __init__(self, backbone: Backbone, cache: SlotCache) -> None:
        config = backbone.model.config
        heads = config.num_attention_heads, config.num_key_value_heads
        kind, width = backbone.weight_format, head_width(config)
        self._layers = [Layer(block, heads, width, kind) for block in backbone.model.model.layers]
        self._cache = cache

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    @property
    def products(self) -> list[Product]:
        """Their frozen matrices."""
        return [product for layer in self._layers for product in layer.products]

    def run(self, first: int, last: int, hidden: Tensor, plan: Span, *, scratch: bool) -> Tensor:
        """Map ``hidden [R, T, F]`` through layers ``first`` to ``last - 1``."""
        cache = Scratch() if scratch else self._cache
        for index in range(first, last):
            hidden = self._layers[index].run(index, hidden, plan, cache)
        return hidden


class Decoder:
    """Runs a Llama-like backbone over the slots of a cache.

    The lower half has no sites, so it does not depend on any code: a prompt passes through it
    first, the controller reads it, and only then the upper half runs with the code.

    Args:
        backbone: The model.
        bank: The adapters in its sites, or None.
        cache: Where keys and values lie.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank | None, cache: SlotCache) -> None:
        inner, kind = backbone.model.model, backbone.weight_format
        self._native = backbone.kernels is not None and kind in {"int8", "int4"}
        self._layers: Any = (
            NativeLayers(backbone.kernels, backbone, bank.row_codes if bank else None, cache)
            if self._native
            else TorchLayers(backbone, cache)
        )
        self._norm = _gain(inner.norm)
        # The vocabulary's matrix is the most sensitive one: never below 8 bits.
        held: WeightFormat = "int8" if kind == "int4" else kind
        self._head = hold(
            backbone.model.lm_head.weight, held, halves=True, kernels=backbone.kernels
        )
        looked_up = inner.embed_tokens.weight
        leave_file(backbone.model, None if isinstance(self._head, FrozenLinear) else looked_up)
        self._embedding: Tensor = looked_up
        self._cache = cache
        self.split = bank.first_layer if bank else 0
        self._feature_layer = bank.feature_layer if bank else -1

    @property
    def products(self) -> list[Product]:
        """All frozen matrices, the vocabulary's last."""
        return [*self._layers.products, self._head]

    @property
    def piece_tokens(self) -> int:
        """Tokens of a prompt that pass half of the layers in about the time of a step of 8 rows."""
        return 20 if self._native else 64

    @property
    def held_bytes(self) -> int:
        """Bytes of all frozen matrices and of the embedding, one that two share counted once."""
        head = self._head
        shared = isinstance(head, FrozenLinear) and head.weight is self._embedding
        embedding = 0 if shared else self._embedding.numel() * self._embedding.element_size()
        return sum(product.held_bytes for product in self.products) + embedding

    def span(self, slots: list[int], starts: list[int], tokens: int) -> Plan:
        """Plan a forward of ``tokens`` new tokens a row, beginning at ``starts``."""
        if self._native:
            return places(slots, starts, tokens)
        return self._cache.span(slots, starts, tokens)

    def whole_span(self, rows: int, tokens: int) -> Plan:
        """Plan a forward of ``rows`` texts that begin at 0 and use no slot."""
        if self._native:
            return places(list(range(rows)), [0] * rows, tokens)
        return self._cache.batch_span(rows, tokens)

    def lower(self, ids: Tensor, plan: Plan, *, scratch: bool = False) -> tuple[Tensor, Tensor]:
        """Run ``ids [R, T]`` through the lower half.

        Args:
            ids: Tokens.
            plan: Where they stand.
            scratch: Whether the plan is one of whole texts, whose keys and values are not kept.

        Returns:
            The state before the first site and the state that controllers read, ``[R, T, F]``.
        """
        features = f.embedding(ids, self._embedding)
        read = min(self._feature_layer + 1, self.split)
        features = self._layers.run(0, read, features, plan, scratch=scratch)
        return self._layers.run(read, self.split, features, plan, scratch=scratch), features

    def upper(self, hidden: Tensor, plan: Plan, *, scratch: bool = False) -> Tensor:
        """Run ``hidden [R, T, F]`` through the upper half."""
        layers: Tensor = self._layers.run(
            self.split, len(self._layers), hidden, plan, scratch=scratch
        )
        return layers

    def likelihoods(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """Return the log-probability of ``wanted [K]`` after the states ``hidden [K, F]``."""
        if isinstance(self._head, PackedLinear):
            return self._head.likelihoods(_norm(self._norm, hidden), wanted)
        logits = self.logits(hidden.unsqueeze(1))
        return logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits ``[R, V]`` of the last position of ``hidden [R, T, F]``."""
        return self._head.forward(_norm(self._norm, hidden[:, -1])).float()


def one_token(decoder: Decoder, token: int, device: torch.device) -> Tensor:
    """Run a real forward of one token in slot 0; proves that the model answers."""
    with torch.inference_mode():
        span = decoder.span([0], [0], 1)
        ids = torch.tensor([[token]], device=device)
        hidden, _ = decoder.lower(ids, span)
        return decoder.logits(decoder.upper(hidden, span))


def _gain(norm: Any) -> tuple[Tensor, float]:
    return norm.weight.detach().clone(), norm.variance_epsilon


def _norm(norm: tuple[Tensor, float], x: Tensor) -> Tensor:
    return torch.rms_norm(x, x.shape[-1:], *norm)


def _rotate(x: Tensor, span: Span) -> Tensor:
    """Turn ``x [R, T, H, D]`` by its positions' angles (arXiv 2104.09864, half-split form)."""
    rows, tokens, heads, width = x.shape
    swapped = x.view(rows, tokens, heads, 2, width // 2).flip(-2).view(x.shape)
    return torch.addcmul(x * span.cos, swapped, span.sin)
