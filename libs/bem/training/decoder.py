"""Training decoder: frozen Llama-like layers over packed sequences, with custom gradients.

Sequences of a row lie one behind the other as flat tokens ``[T, F]``. Weights that read the same
input are merged into one matrix. The operations are those of ``bem.training.kernels``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from bem.adapters.site import TARGET_MODULES, BemSite
from bem.backbone import Backbone
from bem.errors import UnsupportedBackboneError
from bem.training.kernels import (
    GatedLowRankLinear,
    RmsNorm,
    SwiGLU,
    apply_rotary,
    packed_attention,
)

SiteFactors = Mapping[str, tuple[Tensor, Tensor]]
"""``{site path: (A [r, d_in], B [d_out, r])}``."""

SiteCodes = Tensor | Mapping[str, Tensor]
"""Code ``[T, r]`` or ``[1, r]`` of all sites, or one of each site path."""


@dataclass(frozen=True)
class FrozenLayer:
    """Weights of one decoder layer, merged where they read the same input.

    Attributes:
        index: Index of the layer in the model.
        norms: Weights of the norms before attention and before the MLP, and their epsilon.
        qkv: Query, key and value projection ``[(H + 2 K) D, F]``; the two dimensions that rotary
            embedding turns together are interleave.
        o_proj: Output projection ``[F, H D]``.
        gate_up: Gate and up projection of the MLP ``[2 M, F]``.
        down_proj: Down projection of the MLP ``[F, M]``.
    """

    index: int
    norms: tuple[Tensor, Tensor, float]
    qkv: Tensor
    o_proj: Tensor
    gate_up: Tensor
    down_proj: Tensor


@dataclass(frozen=True)
class ForwardContext:
    """Inputs that all layers of one forward pass share.

    Attributes:
        lengths: Number of tokens of each sequence.
        rotations: ``[T, 1, D / 2]`` complex64, rotary embedding of each token.
        factors: ``{site path: (A, B)}`` in the compute dtype.
        code: Code of all sites or of each, in the compute dtype, or None.
        prefixes: Keys and values before each sequence, those of all layers; empty for none.
        kept: Receives the keys and values of each layer, or None.
        first: Index of the first layer that is run.
    """

    lengths: Sequence[int]
    rotations: Tensor
    factors: SiteFactors
    code: SiteCodes | None
    prefixes: Sequence[Tensor]
    kept: list[Tensor] | None
    first: int


class TrainingDecoder:
    """Runs layers of a Llama-like backbone over packed sequences; frozen weights get no gradient.

    Args:
        backbone: Base model; the weights of the layers that are run are copied and merged.
        compute_dtype: ``torch.float32`` or ``torch.bfloat16``, dtype of matrix products and of
            the residual stream. float32 is exact for a bfloat16 backbone: it represents every
            weight.
        recompute: Keep only each layer's input and run the layer again in the backward pass
            (gradient checkpointing, arXiv 1604.06174).

    Raises:
        UnsupportedBackboneError: The layers are not those of Llama; or, later, a sequence is longer
            than the model's sliding window.
    """

    def __init__(
        self, backbone: Backbone, *, compute_dtype: torch.dtype, recompute: bool = False
    ) -> None:
        config = backbone.model.config
        if features := backbone.family.beyond_llama(config):
            raise UnsupportedBackboneError(
                f"training supports Llama's layers only; {backbone.name} has "
                f"{', '.join(features)}; train on a Llama or Mistral model"
            )
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.compute_dtype, self.recompute = compute_dtype, recompute
        self.device: torch.device = backbone.model.device
        self.width: int = config.hidden_size
        self.depth: int = config.num_hidden_layers
        self._inner, self._head = backbone.model.model, backbone.model.lm_head
        self._layers: dict[int, FrozenLayer] = {}
        self._norm_parameters = (
            self._inner.norm.weight.to(compute_dtype),
            self._inner.norm.variance_epsilon,
        )
        self._head_weight: Tensor | None = None
        self._window = backbone.family.window(config)
        validate_llama_layer(self._inner.layers[0], config)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the input of the first layer, ``ids [T]`` to ``[T, F]``."""
        out: Tensor = self._inner.embed_tokens(ids)
        return out.to(self.compute_dtype)

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
        """Run ``layers`` over ``hidden [T, F]``.

        Args:
            hidden: Packed sequences; tokens attend only to tokens of their own sequence.
            lengths: Number of tokens of each sequence, T in total.
            layers: Indices of the decoder layers to run.
            factors: ``{site path: (A [r, d_in], B [d_out, r])}``; other layers stay frozen.
            code: Codes times the adapter's scale, ``[T, r]`` or ``[1, r]``, the same at all sites
                or by site path; required with factors.
            positions: ``[N]`` flat positions to return. After its attention, the last layer
                computes only these.
            prefixes: Keys and values before each sequence, ``[layers, P, 2 K D]`` as ``kept``
                receives them; the sequence goes on behind its P tokens. Empty for none.
            kept: Receives the rotated keys and the values of each layer, ``[T, 2 K D]``.

        Returns:
            ``[T, F]``, or ``[N, F]`` in the order of ``positions``.
        """
        earlier = [one.shape[1] for one in prefixes] or [0] * len(lengths)
        self._check_window(earlier, lengths)
        hidden = hidden.to(self.compute_dtype)
        context = ForwardContext(
            lengths=lengths,
            rotations=self._rotations(hidden, lengths, earlier),
            factors={
                path: (a.to(self.compute_dtype), b.to(self.compute_dtype))
                for path, (a, b) in (factors or {}).items()
            },
            code=_cast_code(code, self.compute_dtype),
            prefixes=prefixes,
            kept=kept,
            first=layers.start,
        )
        for index in layers:
            keep = positions if index == layers[-1] else None
            layer = self._layer(index)
            if self.recompute and torch.is_grad_enabled():
                hidden = checkpoint(
                    self._run_layer, layer, hidden, context, keep, use_reentrant=False
                )
            else:
                hidden = self._run_layer(layer, hidden, context, keep)
        return hidden

    def _check_window(self, earlier: Sequence[int], lengths: Sequence[int]) -> None:
        """Refuse sequences that, with the tokens before them, exceed a sliding window."""
        longest = max((sum(both) for both in zip(earlier, lengths, strict=True)), default=0)
        if self._window is not None and longest > self._window:
            raise UnsupportedBackboneError(
                f"training has no sliding window; a sequence has {longest} tokens and the "
                f"window {self._window}; shorten the sequences"
            )

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Apply the norm after the last layer, ``[N, F]`` to ``[N, F]``."""
        weight, eps = self._norm_parameters
        return RmsNorm.apply(hidden, weight, eps)

    @property
    def head(self) -> Tensor:
        """Weight of the language-model head ``[V, F]`` in the compute dtype."""
        if self._head_weight is None:
            self._head_weight = self._head.weight.detach().to(self.compute_dtype)
        return self._head_weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits ``[N, V]`` for states ``[N, F]`` behind the last layer."""
        return linear(self.final_norm(hidden), self.head).float()

    def _run_layer(
        self,
        layer: FrozenLayer,
        hidden: Tensor,
        context: ForwardContext,
        positions: Tensor | None,
    ) -> Tensor:
        before, after, eps = layer.norms
        mixed = linear(RmsNorm.apply(hidden, before, eps), layer.qkv)
        # Attention runs in float32, which on a CPU is also the faster dtype.
        width = mixed.shape[1] * self.heads[1] // (self.heads[0] + 2 * self.heads[1])
        queries_keys, values = mixed.float().split([mixed.shape[1] - width, width], dim=-1)
        queries_keys = apply_rotary(queries_keys, context.rotations)
        if context.kept is not None:
            context.kept.append(torch.cat([queries_keys[:, -width:], values], dim=-1))
        before_each = [one[layer.index - context.first] for one in context.prefixes]
        attended = packed_attention(
            queries_keys, values, context.lengths, self.heads, prefixes=before_each
        )
        attended = attended.to(self.compute_dtype)
        if positions is not None:
            # Keys and values of all tokens were needed; the rest of the last layer works token by
            # token, so only the tokens with a loss go on.
            hidden, attended = hidden[positions], attended[positions]
        path = _site_path(layer, "o_proj")
        hidden = _apply_site(
            hidden, attended, layer.o_proj, path=path, context=context, positions=positions
        )
        gated = SwiGLU.apply(linear(RmsNorm.apply(hidden, after, eps), layer.gate_up))
        path = _site_path(layer, "down_proj")
        return _apply_site(
            hidden, gated, layer.down_proj, path=path, context=context, positions=positions
        )

    def _layer(self, index: int) -> FrozenLayer:
        if index not in self._layers:
            self._layers[index] = self._merge(index)
        return self._layers[index]

    @torch.no_grad()
    def _merge(self, index: int) -> FrozenLayer:
        layer = self._inner.layers[index]
        attention, mlp = layer.self_attn, layer.mlp
        pairs = attention.head_dim // 2

        def interleave(weight: Tensor) -> Tensor:
            # Hugging Face rotates dimensions i and i + D / 2. Bringing them side by side lets the
            # rotation be one complex product. Attention does not change: queries and keys are
            # reordered alike, so their dot products stay the same.
            return weight.view(-1, 2, pairs, weight.shape[1]).transpose(1, 2).flatten(0, 2)

        qkv = [
            interleave(_frozen_weight(attention.q_proj)),
            interleave(_frozen_weight(attention.k_proj)),
            _frozen_weight(attention.v_proj),
        ]
        gate_up = [_frozen_weight(mlp.gate_proj), _frozen_weight(mlp.up_proj)]
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        return FrozenLayer(
            index=index,
            norms=(
                first.weight.to(self.compute_dtype),
                second.weight.to(self.compute_dtype),
                first.variance_epsilon,
            ),
            qkv=torch.cat(qkv).to(self.compute_dtype),
            o_proj=_frozen_weight(attention.o_proj).to(self.compute_dtype),
            gate_up=torch.cat(gate_up).to(self.compute_dtype),
            down_proj=_frozen_weight(mlp.down_proj).to(self.compute_dtype),
        )

    def _rotations(self, hidden: Tensor, lengths: Sequence[int], starts: Sequence[int]) -> Tensor:
        """Return ``cos + i sin`` of each token's position in its sequence, ``[T, 1, D / 2]``."""
        spans = zip(starts, lengths, strict=True)
        positions = torch.cat(
            [torch.arange(start, start + n, device=hidden.device) for start, n in spans]
        )
        cos, sin = self._inner.rotary_emb(hidden.new_empty(0, dtype=torch.float32), positions[None])
        pairs = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :pairs], sin[0, :, :pairs]).unsqueeze(1)


def validate_llama_layer(layer: nn.Module, config: Any) -> None:
    """Raise unless a decoder layer computes what a Llama layer computes.

    Raises:
        UnsupportedBackboneError: The layer has biases, another activation or other modules.
    """
    paths = [f"self_attn.{part}_proj" for part in "qkvo"]
    paths += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    try:
        parts = [layer.get_submodule(path) for path in paths]
        layer.get_submodule("input_layernorm"), layer.get_submodule("post_attention_layernorm")
    except AttributeError as err:
        raise UnsupportedBackboneError(f"training supports Llama-like layers only: {err}") from err
    biases = sum(getattr(part, "bias", None) is not None for part in parts)
    if config.hidden_act != "silu" or biases:
        raise UnsupportedBackboneError(
            f"training supports layers with silu and without biases only; this one has "
            f"{config.hidden_act} and {biases} biases"
        )


def _site_path(layer: FrozenLayer, kind: str) -> str:
    return f"model.layers.{layer.index}.{TARGET_MODULES[kind]}"


def _frozen_weight(module: nn.Module) -> Tensor:
    weight = module.base.weight if isinstance(module, BemSite) else module.weight
    return weight.detach()  # type: ignore[operator]


def _cast_code(code: SiteCodes | None, dtype: torch.dtype) -> SiteCodes | None:
    if isinstance(code, Mapping):
        return {path: one.to(dtype) for path, one in code.items()}
    return code.to(dtype) if code is not None else None


def _apply_site(
    residual: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    path: str,
    context: ForwardContext,
    positions: Tensor | None,
) -> Tensor:
    """Return residual and site; ``positions`` are the tokens of the row that x holds."""
    factors, code = context.factors.get(path), context.code
    if isinstance(code, Mapping):
        code = code.get(path)
    if factors is None or code is None:
        return residual + linear(x, weight)
    if positions is not None and code.shape[0] > 1:
        code = code[positions]
    return GatedLowRankLinear.apply(residual, x, weight, *factors, code)
