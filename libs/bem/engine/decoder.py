"""Decoder: forward pass of a backbone in two halves, split where the adapters begin.

The layers are those of ``bem.engine.decoder_layer``, or of the compiled kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from bem.adapters.bank import AdapterBank
from bem.adapters.site import default_layers
from bem.backbone import Backbone, WeightFormat
from bem.engine.attention_inputs import FrozenNorm
from bem.engine.decoder_layer import DecoderLayer, cap
from bem.engine.kv_cache import AttentionPlan, KVCache, TransientKeyValues
from bem.engine.linear import FrozenLinear, LinearLayer, quantize
from bem.engine.native import PackedLinear
from bem.engine.native.layers import NativeLayers, TokenPlacement, place_tokens
from bem.engine.process_memory import release_weight_file
from bem.engine.shard_leader import LeadingLayers, check_whole

ForwardPlan = AttentionPlan | TokenPlacement
HEAD_LOGITS = 256 * 49_152
"""Logits that are in memory at once: 50 MB in float32, whatever the vocabulary's size is."""


class TorchLayers:
    """Decoder layers computed by torch operations.

    Args:
        backbone: Model whose layers are shared, or taken over when they are quantised.
        kv_cache: Storage of keys and values.
    """

    def __init__(self, backbone: Backbone, kv_cache: KVCache) -> None:
        self._layers = [DecoderLayer(backbone, index) for index in range(len(backbone.layers))]
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
        """Return the queries ``[R, T, Q, D]`` of a layer's input ``hidden [R, T, F]``."""
        return self._layers[index].queries(hidden, plan)


class Decoder:
    """Runs a backbone over the slots of a KV cache.

    The lower half has no adapters with controllers and does not depend on their codes. A prompt
    passes it first, the controller reads the result, and only then the upper half runs with the
    code. An adapter whose code is constant may adapt the lower half too.

    Args:
        backbone: The model.
        bank: Adapters in its sites, or None.
        kv_cache: Storage of keys and values.

    Raises:
        InvalidSettingError: Several processes hold the model, and it has adapters or is quantised.

    Attributes:
        split: Layer at which the upper half begins.
        library: Compiled kernels that compute the layers; None where torch does.
    """

    def __init__(self, backbone: Backbone, bank: AdapterBank | None, kv_cache: KVCache) -> None:
        inner, kind = backbone.model.model, backbone.weight_format
        if bank is not None:
            check_whole(backbone, "adapters are")
        if kind in {"int8", "int4"}:
            check_whole(backbone, f"{kind} weights are")
        self._constants = backbone.family.constants(backbone.model.config)
        self._native = backbone.kernels is not None and kind in {"int8", "int4"}
        self.library = backbone.kernels if self._native else None
        self._layers: Any = (
            NativeLayers(backbone.kernels, backbone, bank, kv_cache)
            if self._native
            else TorchLayers(backbone, kv_cache)
        )
        if backbone.shards is not None:
            self._layers = LeadingLayers(self._layers, backbone.shards)
        self._norm = FrozenNorm.of(backbone, inner.norm)
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
        if backbone.shards is not None:  # as with a bank, which planners' states depend on
            self.split, self._feature_layer = default_layers(len(self._layers))

    @property
    def linears(self) -> list[LinearLayer]:
        """All frozen matrices; the output matrix is the last."""
        return [*self._layers.linears, self._head]

    @property
    def head_rows(self) -> int:
        """Rows whose logits over the vocabulary are in memory at once."""
        return max(1, HEAD_LOGITS // self._embedding.shape[0])

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
        embeddings, factor = f.embedding(ids, self._embedding), self._constants.embedding
        if factor == 1:
            return embeddings
        return embeddings * torch.tensor(factor, dtype=embeddings.dtype)

    def observe(self, layer: int, hidden: Tensor, plan: ForwardPlan) -> tuple[Tensor, Tensor]:
        """Run one layer over tokens whose keys and values are in the cache already.

        Args:
            layer: Index of the layer.
            hidden: ``[R, T, F]`` input of the layer.
            plan: Places of the tokens.

        Returns:
            The input of the next layer, and the queries ``[R, T, Q, D]``: rotated, and scaled so
            that attention weighs keys by their products over the root of D.
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
        if isinstance(self._head, PackedLinear) and not self._constants.change_logits:
            return self._head.target_logprobs(self._norm(hidden), targets)
        logits = self.logits(hidden.unsqueeze(1))
        return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the float32 logits ``[R, V]`` of the last position of ``hidden [R, T, F]``."""
        logits = self._head.forward(self._norm(hidden[:, -1])).float()
        if self._constants.change_logits:
            logits = cap(logits * self._constants.logits, self._constants.logit_cap)
        return logits


def probe_one_token(decoder: Decoder, token: int, device: torch.device) -> Tensor:
    """Run a forward pass of one token, without a slot; it raises if the model cannot compute."""
    with torch.inference_mode():
        plan = decoder.plan_full_texts(1, 1)
        ids = torch.tensor([[token]], device=device)
        hidden, _ = decoder.lower(ids, plan, transient=True)
        return decoder.logits(decoder.upper(hidden, plan, transient=True))
