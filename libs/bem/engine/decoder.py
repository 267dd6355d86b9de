"""Decoder: forward pass of a Llama-like backbone in two halves, split where the adapters begin.

The layers are written out instead of calling those of transformers: projections are fused, masks
and rotary angles are planned once per pass instead of once per layer, and attention reads views of
the KV cache.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, WeightFormat
from bem.engine.kv_cache import (
    AttentionPlan,
    KeyValueStore,
    KVCache,
    TransientKeyValues,
    head_dim,
    rotate,
)
from bem.engine.linear import FrozenLinear, LinearLayer, fuse_and_quantize, quantize, quantize_site
from bem.engine.native import PackedLinear
from bem.engine.native.layers import NativeLayers, TokenPlacement, place_tokens
from bem.engine.process_memory import release_weight_file

ForwardPlan = AttentionPlan | TokenPlacement
HEAD_ROWS = 256
"""Rows whose logits over the vocabulary are in memory at once."""


class DecoderLayer:
    """One decoder layer; it shares the backbone's weights, or takes them over to quantise them.

    Args:
        block: Llama layer of transformers, whose ``o_proj`` and ``down_proj`` may be adapter sites.
        heads: Numbers of query heads and of key-value heads.
        head_width: Width of one head.
        kind: Weight format.
    """

    def __init__(
        self, block: Any, heads: tuple[int, int], head_width: int, kind: WeightFormat
    ) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._heads, self._head_width = heads, head_width
        # Outputs of norms have outliers and need wide inputs; the inputs of the other two do not.
        qkv_parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        qkv = fuse_and_quantize(qkv_parts, kind, wide_inputs=True)
        gate_up = fuse_and_quantize((mlp.gate_proj, mlp.up_proj), kind, wide_inputs=True)
        attention.o_proj, out = quantize_site(attention.o_proj, kind)
        mlp.down_proj, down = quantize_site(mlp.down_proj, kind)
        self.linears = (qkv, out, gate_up, down)
        # ``forward`` is called directly: module hooks take as long as a small product.
        self._qkv, self._gate_up = qkv.forward, gate_up.forward
        self._out, self._down = attention.o_proj.forward, mlp.down_proj.forward
        self._norms = _gain(block.input_layernorm), _gain(block.post_attention_layernorm)

    def run(self, index: int, hidden: Tensor, plan: AttentionPlan, store: KeyValueStore) -> Tensor:
        """Map ``hidden [R, T, F]`` to the input of the next layer."""
        hidden = hidden + self._out(self._attend(index, _norm(self._norms[0], hidden), plan, store))
        gate, up = self._gate_up(_norm(self._norms[1], hidden)).chunk(2, -1)
        output: Tensor = hidden + self._down(f.silu(gate) * up)
        return output

    def queries(self, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the rotated queries ``[R, T, Q, D]`` of ``hidden [R, T, F]``."""
        qkv = self._qkv(_norm(self._norms[0], hidden))
        qkv = qkv.view(*hidden.shape[:2], -1, self._head_width)
        return rotate(qkv[:, :, : self._heads[0]], plan.cos, plan.sin)

    def _attend(self, index: int, x: Tensor, plan: AttentionPlan, store: KeyValueStore) -> Tensor:
        rows, tokens, _ = x.shape
        query_heads, kv_heads = self._heads
        qkv = self._qkv(x).view(rows, tokens, query_heads + 2 * kv_heads, self._head_width)
        rotated = rotate(qkv[:, :, : query_heads + kv_heads], plan.cos, plan.sin)
        q, k = rotated[:, :, :query_heads], rotated[:, :, query_heads:]
        keys, values = store.write(index, plan, k, qkv[:, :, query_heads + kv_heads :])
        # With one token, query heads that share keys are laid out like tokens of one head.
        single = tokens == 1
        q = q.reshape(rows, kv_heads, -1, self._head_width) if single else q.transpose(1, 2)
        if plan.row_index is not None:
            q = q.new_zeros(plan.slot_count, *q.shape[1:]).index_copy_(0, plan.row_index, q)
        out = f.scaled_dot_product_attention(
            q, keys, values, attn_mask=plan.mask, is_causal=plan.causal, enable_gqa=not single
        )
        if plan.row_index is not None:
            out = out[plan.row_index]
        return (out if single else out.transpose(1, 2)).reshape(rows, tokens, -1)


class TorchLayers:
    """Decoder layers computed by torch operations.

    Args:
        backbone: Model whose layers are shared, or taken over when they are quantised.
        kv_cache: Storage of keys and values.
    """

    def __init__(self, backbone: Backbone, kv_cache: KVCache) -> None:
        config = backbone.model.config
        heads = config.num_attention_heads, config.num_key_value_heads
        kind, width = backbone.weight_format, head_dim(config)
        self._layers = [
            DecoderLayer(block, heads, width, kind) for block in backbone.model.model.layers
        ]
        self._kv_cache = kv_cache

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    @property
    def linears(self) -> list[LinearLayer]:
        """Frozen matrices of all layers."""
        return [linear for layer in self._layers for linear in layer.linears]

    def run(
        self, first: int, last: int, hidden: Tensor, plan: AttentionPlan, *, transient: bool
    ) -> Tensor:
        """Map ``hidden [R, T, F]`` through layers ``first`` to ``last - 1``."""
        store = TransientKeyValues() if transient else self._kv_cache
        for index in range(first, last):
            hidden = self._layers[index].run(index, hidden, plan, store)
        return hidden

    def queries(self, index: int, hidden: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the rotated queries ``[R, T, Q, D]`` of a layer's input ``hidden [R, T, F]``."""
        return self._layers[index].queries(hidden, plan)


class Decoder:
    """Runs a Llama-like backbone over the slots of a KV cache.

    The lower half has no adapter sites and does not depend on codes. A prompt passes it first, the
    controller reads the result, and only then the upper half runs with the code.

    Args:
        backbone: The model.
        bank: Adapters in its sites, or None.
        kv_cache: Storage of keys and values.

    Attributes:
        split: Layer at which the upper half begins.
        library: Compiled kernels that compute the layers; None where torch does.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank | None, kv_cache: KVCache) -> None:
        inner, kind = backbone.model.model, backbone.weight_format
        self._native = backbone.kernels is not None and kind in {"int8", "int4"}
        self.library = backbone.kernels if self._native else None
        self._layers: Any = (
            NativeLayers(backbone.kernels, backbone, bank.row_codes if bank else None, kv_cache)
            if self._native
            else TorchLayers(backbone, kv_cache)
        )
        self._norm = _gain(inner.norm)
        # The output matrix is the most sensitive one: never below 8 bits.
        head_kind: WeightFormat = "int8" if kind == "int4" else kind
        self._head = quantize(
            backbone.model.lm_head.weight, head_kind, wide_inputs=True, kernels=backbone.kernels
        )
        self._embedding: Tensor = inner.embed_tokens.weight
        quantised = not isinstance(self._head, FrozenLinear)
        release_weight_file(backbone.model, keep=[self._embedding] if quantised else None)
        self._kv_cache = kv_cache
        self.split = bank.first_layer if bank else 0
        self._feature_layer = bank.feature_layer if bank else -1

    @property
    def linears(self) -> list[LinearLayer]:
        """All frozen matrices; the output matrix is the last."""
        return [*self._layers.linears, self._head]

    @property
    def decode_chunk_tokens(self) -> int:
        """Prompt tokens that pass one half in about the time of a decode step of 8 sequences."""
        return 20 if self._native else 64

    @property
    def weight_bytes(self) -> int:
        """Bytes of all frozen matrices and of the embedding; a shared tensor counts once."""
        head = self._head
        tied = isinstance(head, FrozenLinear) and head.weight is self._embedding
        embedding = 0 if tied else self._embedding.numel() * self._embedding.element_size()
        return sum(linear.weight_bytes for linear in self.linears) + embedding

    def plan(
        self,
        slots: list[int],
        starts: list[int],
        tokens: int,
        evicted: Sequence[int] | None = None,
    ) -> ForwardPlan:
        """Plan a forward pass; arguments as in ``KVCache.plan``."""
        if self._native:
            return place_tokens(slots, starts, tokens, evicted)
        return self._kv_cache.plan(slots, starts, tokens, evicted)

    def plan_full_texts(self, rows: int, tokens: int) -> ForwardPlan:
        """Plan a forward pass of ``rows`` texts that begin at position 0 and use no slot."""
        if self._native:
            return place_tokens(list(range(rows)), [0] * rows, tokens)
        return self._kv_cache.plan_full_texts(rows, tokens)

    def lower(
        self, ids: Tensor, plan: ForwardPlan, *, transient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run ``ids [R, T]`` through the lower half.

        Args:
            ids: Token ids.
            plan: Positions of the tokens.
            transient: Whether the plan is one of full texts, whose keys and values are not stored.

        Returns:
            The state before the first site and the state that controllers read, ``[R, T, F]`` each.
        """
        features = self.embed(ids)
        feature_end = min(self._feature_layer + 1, self.split)
        features = self._layers.run(0, feature_end, features, plan, transient=transient)
        hidden = self._layers.run(feature_end, self.split, features, plan, transient=transient)
        return hidden, features

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[R, T, F]`` of ``ids [R, T]``."""
        return f.embedding(ids, self._embedding)

    def observe(self, layer: int, hidden: Tensor, plan: ForwardPlan) -> tuple[Tensor, Tensor]:
        """Run one layer over tokens whose keys and values are in the cache already.

        Args:
            layer: Index of the layer.
            hidden: ``[R, T, F]`` input of the layer.
            plan: Places of the tokens.

        Returns:
            The input of the next layer, and the rotated queries ``[R, T, Q, D]``.
        """
        queries = self._layers.queries(layer, hidden, plan)
        return self._layers.run(layer, layer + 1, hidden, plan, transient=False), queries

    def upper(self, hidden: Tensor, plan: ForwardPlan, *, transient: bool = False) -> Tensor:
        """Run ``hidden [R, T, F]`` through the upper half."""
        output: Tensor = self._layers.run(
            self.split, len(self._layers), hidden, plan, transient=transient
        )
        return output

    def target_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of ``targets [K]`` after the states ``hidden [K, F]``."""
        if isinstance(self._head, PackedLinear):
            return self._head.target_logprobs(_norm(self._norm, hidden), targets)
        logits = self.logits(hidden.unsqueeze(1))
        return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits ``[R, V]`` of the last position of ``hidden [R, T, F]``."""
        return self._head.forward(_norm(self._norm, hidden[:, -1])).float()


def probe_one_token(decoder: Decoder, token: int, device: torch.device) -> Tensor:
    """Run a forward pass of one token, without a slot; it raises if the model cannot compute."""
    with torch.inference_mode():
        plan = decoder.plan_full_texts(1, 1)
        ids = torch.tensor([[token]], device=device)
        hidden, _ = decoder.lower(ids, plan, transient=True)
        return decoder.logits(decoder.upper(hidden, plan, transient=True))


def _gain(norm: Any) -> tuple[Tensor, float]:
    return norm.weight.detach().clone(), norm.variance_epsilon


def _norm(norm: tuple[Tensor, float], x: Tensor) -> Tensor:
    return torch.rms_norm(x, x.shape[-1:], *norm)
