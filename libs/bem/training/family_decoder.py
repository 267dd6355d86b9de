"""Training decoder of the other model families: the engine's layers, with gradients.

The layers are those of ``bem.engine.decoder_layer``, so that a family is trained as it is served;
no forward pass is written twice. They compute padded batches by torch's own gradients, which is
slower than the packed products of Llama's layers in ``bem.training.decoder``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as f
from torch.utils.checkpoint import checkpoint

from bem.adapters.site import TARGET_MODULES, BemSite
from bem.backbone import Backbone
from bem.engine.attention_inputs import FrozenNorm
from bem.engine.decoder_layer import DecoderLayer
from bem.engine.kv_cache import AttentionPlan, KVCache, TransientKeyValues
from bem.errors import UnsupportedBackboneError
from bem.training.decoder import SiteCodes, SiteFactors, TrainingDecoder


def open_decoder(
    backbone: Backbone, *, compute_dtype: torch.dtype, recompute: bool = False
) -> TrainingDecoder:
    """Return the decoder that trains a backbone; arguments as in ``TrainingDecoder``.

    Raises:
        UnsupportedBackboneError: The loss does not compute what the family's logits are.
    """
    if backbone.family.beyond_llama(backbone.model.config):
        return FamilyDecoder(backbone, recompute=recompute)
    return TrainingDecoder(backbone, compute_dtype=compute_dtype, recompute=recompute)


class FamilyDecoder(TrainingDecoder):
    """Runs layers of any served family over packed sequences; frozen weights get no gradient.

    Args:
        backbone: Base model. Its own data type is that of all products.
        recompute: Keep only each layer's input and run the layer again in the backward pass.

    Raises:
        UnsupportedBackboneError: The family bounds its logits, which the loss does not.
    """

    def __init__(self, backbone: Backbone, *, recompute: bool = False) -> None:
        config = backbone.model.config
        self._constants = backbone.family.constants(config)
        if self._constants.logit_cap is not None:
            raise UnsupportedBackboneError(
                f"training does not bound logits, as {backbone.name} does; train a LoRA with peft "
                "and import it"
            )
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.compute_dtype, self.recompute = backbone.model.dtype, recompute
        self.device: torch.device = backbone.model.device
        self.width: int = config.hidden_size
        self.depth: int = config.num_hidden_layers
        self._backbone = replace(backbone, weight_format="fp32", kernels=None)
        self._inner, self._head = backbone.model.model, backbone.model.lm_head
        self._head_weight: Tensor | None = None
        self._norm = FrozenNorm.of(backbone, self._inner.norm)
        self._trained: dict[int, tuple[DecoderLayer, dict[str, _TrainedLinear]]] = {}
        self._cache: KVCache | None = None

    def embed(self, ids: Tensor) -> Tensor:
        """Return the input of the first layer, ``ids [T]`` to ``[T, F]``."""
        weight: Tensor = self._inner.embed_tokens.weight
        return f.embedding(ids, weight) * self._constants.embedding

    def run_layers(
        self,
        hidden: Tensor,
        lengths: Sequence[int],
        *,
        layers: range,
        factors: SiteFactors | None = None,
        code: SiteCodes | None = None,
        positions: Tensor | None = None,
        prefixes: Sequence[Tensor] = (),
        kept: list[Tensor] | None = None,
    ) -> Tensor:
        """Run ``layers`` over ``hidden [T, F]``; arguments as in ``TrainingDecoder``.

        Raises:
            UnsupportedBackboneError: Prefixes are given or to be kept, which no family but Llama
                is trained with.
        """
        if prefixes or kept is not None:
            raise UnsupportedBackboneError(
                f"training keeps no prefixes of {self._backbone.name}; train on whole sequences"
            )
        rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor([*lengths]))
        places = torch.cat([torch.arange(one) for one in lengths])
        at = rows.to(self.device), places.to(self.device)
        padded = _pad(hidden.to(self.compute_dtype), at, lengths)
        plan = self._plan(len(lengths), max(lengths))
        for index in layers:
            updates = {
                kind: _update(
                    path, factors or {}, code, at=at, lengths=lengths, dtype=self.compute_dtype
                )
                for kind, module in TARGET_MODULES.items()
                if (path := f"model.layers.{index}.{module}") in (factors or {})
            }
            if self.recompute and torch.is_grad_enabled():
                padded = checkpoint(
                    self._run_family_layer, index, padded, plan, updates, use_reentrant=False
                )
            else:
                padded = self._run_family_layer(index, padded, plan, updates)
        out = padded[at]
        return out if positions is None else out[positions]

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Apply the norm after the last layer and the factor of the logits, ``[N, F]`` each."""
        return self._norm(hidden) * self._constants.logits

    def _plan(self, rows: int, tokens: int) -> AttentionPlan:
        if self._cache is None or self._cache.keys.shape[3] < tokens:
            self._cache = KVCache(self._backbone, slots=1, context_tokens=tokens)
        return self._cache.plan_full_texts(rows, tokens)

    def _run_family_layer(
        self,
        index: int,
        hidden: Tensor,
        plan: AttentionPlan,
        updates: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    ) -> Tensor:
        layer, sites = self._family_layer(index)
        for kind, site in sites.items():
            site.update = updates.get(kind)
        try:
            return layer.run(index, hidden, plan, TransientKeyValues())
        finally:
            for site in sites.values():
                site.update = None

    def _family_layer(self, index: int) -> tuple[DecoderLayer, dict[str, "_TrainedLinear"]]:
        if index not in self._trained:
            with _trained_sites(self._backbone.layers[index]) as sites:
                self._trained[index] = DecoderLayer(self._backbone, index), sites
        return self._trained[index]


class _TrainedLinear(nn.Module):
    """Frozen linear layer with an update that gets gradients.

    Attributes:
        update: Factors ``A [r, d_in]`` and ``B [d_out, r]`` with the code ``[R, T, r]``, or None.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.update: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = f.linear(x, self.weight)
        if self.update is None:
            return y
        a, b, code = self.update
        return y + f.linear(f.linear(x, a) * code, b)


@contextmanager
def _trained_sites(block: Any) -> Iterator[dict[str, _TrainedLinear]]:
    """Put trained layers into a block while its forward pass is taken from it."""
    before = {"o_proj": block.self_attn.o_proj, "down_proj": block.mlp.down_proj}
    sites = {
        kind: _TrainedLinear((one.base if isinstance(one, BemSite) else one).weight)
        for kind, one in before.items()
    }
    block.self_attn.o_proj, block.mlp.down_proj = sites["o_proj"], sites["down_proj"]
    try:
        yield sites
    finally:
        block.self_attn.o_proj, block.mlp.down_proj = before["o_proj"], before["down_proj"]


def _update(
    path: str,
    factors: SiteFactors,
    code: SiteCodes | None,
    *,
    at: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of one site, and its code ``[R, T, r]`` or ``[1, 1, r]``."""
    own = code[path] if isinstance(code, Mapping) else code
    if own is None:
        raise ValueError("code: factors need a code; give one")
    a, b = factors[path]
    own = own.to(dtype)
    own = own[None] if own.shape[0] == 1 else _pad(own, at, lengths)
    return a.to(dtype), b.to(dtype), own


def _pad(flat: Tensor, at: tuple[Tensor, Tensor], lengths: Sequence[int]) -> Tensor:
    """Return ``flat [T, N]`` with each sequence as a row, ``[R, L, N]``."""
    empty = flat.new_zeros(len(lengths), max(lengths), flat.shape[1])
    return empty.index_put(at, flat)
