"""The frozen decoder as training needs it: flat packed tokens, merged weights, own gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from bem.adapters.site import KINDS, BemSite
from bem.backbone import Backbone
from bem.errors import UnsupportedBackboneError
from bem.training.kernels import GatedUnit, Norm, SiteStep, attend, rotate

Factors = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FrozenLayer:
    """One decoder layer's weights, merged where they read the same input.

    Attributes:
        index: Place in the model.
        norms: Weights of the norms before attention and before the gated unit, and their eps.
        qkv: Queries, keys and values, ``[(H + 2 K) D, F]``; pairs of an angle are neighbours.
        o_proj: ``[F, H D]``.
        gate_up: ``[2 M, F]``.
        down_proj: ``[F, M]``.
    """

    index: int
    norms: tuple[Tensor, Tensor, float]
    qkv: Tensor
    o_proj: Tensor
    gate_up: Tensor
    down_proj: Tensor


@dataclass(frozen=True)
class Passing:
    """What all layers of one forward pass share.

    Attributes:
        lengths: Tokens of each sequence.
        turns: ``[T, 1, D / 2]`` complex64, each token's rotation.
        factors: In the arithmetic.
        code: ``[T, r]``, ``[1, r]`` or None.
    """

    lengths: Sequence[int]
    turns: Tensor
    factors: Factors
    code: Tensor | None


class TrainingDecoder:
    """Runs the layers of a Llama-like backbone over packed sequences; nothing frozen moves.

    Args:
        backbone: Its weights are copied, merged, for the layers that are run.
        arithmetic: ``torch.float32`` or ``torch.bfloat16``, of products and of the residual
            stream. A bfloat16 backbone in float32 arithmetic is exact: every weight is kept.
        recompute: Keep only each layer's input and run it again in the backward pass
            (gradient checkpointing, arXiv 1604.06174).

    Raises:
        UnsupportedBackboneError: A layer is not Llama's.
    """

    def __init__(
        self, backbone: Backbone, *, arithmetic: torch.dtype, recompute: bool = False
    ) -> None:
        config = backbone.model.config
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.arithmetic, self.recompute = arithmetic, recompute
        self.device: torch.device = backbone.model.device
        self.width: int = config.hidden_size
        self._inner, self._head = backbone.model.model, backbone.model.lm_head
        self._layers: dict[int, FrozenLayer] = {}
        self._final = (self._inner.norm.weight.to(arithmetic), self._inner.norm.variance_epsilon)
        self._head_weight: Tensor | None = None
        check_llama(self._inner.layers[0], config)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the input of the first layer, ``ids [T]`` to ``[T, F]``."""
        out: Tensor = self._inner.embed_tokens(ids)
        return out.to(self.arithmetic)

    def run(
        self,
        hidden: Tensor,
        lengths: Sequence[int],
        *,
        layers: range,
        factors: Factors | None = None,
        code: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Run ``layers`` over ``hidden [T, F]``.

        Args:
            hidden: Sequences, one behind the other; each attends to itself only.
            lengths: Their tokens, T in all.
            layers: Which decoder layers.
            factors: ``{site path: (A [r, d_in], B [d_out, r])}``; other sites stay frozen.
            code: ``[T, r]`` or ``[1, r]``, times the adapter's scale; needed with factors.
            wanted: ``[N]`` places whose last state is asked for; the last layer does only these.

        Returns:
            ``[T, F]``, or ``[N, F]`` in the order of ``wanted``.
        """
        hidden = hidden.to(self.arithmetic)
        passing = Passing(
            lengths=lengths,
            turns=self._turns(hidden, lengths),
            factors={
                path: (a.to(self.arithmetic), b.to(self.arithmetic))
                for path, (a, b) in (factors or {}).items()
            },
            code=code.to(self.arithmetic) if code is not None else None,
        )
        for index in layers:
            picked = wanted if index == layers[-1] else None
            layer = self._layer(index)
            if self.recompute and torch.is_grad_enabled():
                hidden = checkpoint(self._step, layer, hidden, passing, picked, use_reentrant=False)
            else:
                hidden = self._step(layer, hidden, passing, picked)
        return hidden

    def normed(self, hidden: Tensor) -> Tensor:
        """Return what the head reads, ``[N, F]``."""
        weight, eps = self._final
        return Norm.apply(hidden, weight, eps)

    @property
    def head(self) -> Tensor:
        """The head's weight ``[V, F]``, in the arithmetic."""
        if self._head_weight is None:
            self._head_weight = self._head.weight.detach().to(self.arithmetic)
        return self._head_weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return ``[N, V]`` in float32 for states ``[N, F]`` behind the last layer."""
        return linear(self.normed(hidden), self.head).float()

    def _step(
        self, layer: FrozenLayer, hidden: Tensor, passing: Passing, wanted: Tensor | None
    ) -> Tensor:
        before, after, eps = layer.norms
        code, factors = passing.code, passing.factors
        mixed = linear(Norm.apply(hidden, before, eps), layer.qkv)
        # Attention in float32: on a CPU it is also the faster one.
        width = mixed.shape[1] * self.heads[1] // (self.heads[0] + 2 * self.heads[1])
        both, values = mixed.float().split([mixed.shape[1] - width, width], dim=-1)
        both = rotate(both, passing.turns)
        seen = attend(both, values, passing.lengths, self.heads).to(self.arithmetic)
        if wanted is not None:
            hidden, seen = hidden[wanted], seen[wanted]
            code = code[wanted] if code is not None and code.shape[0] > 1 else code
        hidden = _site(hidden, seen, layer.o_proj, factors.get(_path(layer, "o_proj")), code)
        gated = GatedUnit.apply(linear(Norm.apply(hidden, after, eps), layer.gate_up))
        return _site(hidden, gated, layer.down_proj, factors.get(_path(layer, "down_proj")), code)

    def _layer(self, index: int) -> FrozenLayer:
        if index not in self._layers:
            self._layers[index] = self._merge(index)
        return self._layers[index]

    @torch.no_grad()
    def _merge(self, index: int) -> FrozenLayer:
        layer = self._inner.layers[index]
        attention, mlp = layer.self_attn, layer.mlp
        pairs = attention.head_dim // 2

        def neighbours(weight: Tensor) -> Tensor:
            # Queries and keys in the same new order have the same products.
            return weight.view(-1, 2, pairs, weight.shape[1]).transpose(1, 2).flatten(0, 2)

        qkv = [
            neighbours(attention.q_proj.weight),
            neighbours(attention.k_proj.weight),
            attention.v_proj.weight,
        ]
        gate_up = [mlp.gate_proj.weight, mlp.up_proj.weight]
        first, second = layer.input_layernorm, layer.post_attention_layernorm
        return FrozenLayer(
            index=index,
            norms=(
                first.weight.to(self.arithmetic),
                second.weight.to(self.arithmetic),
                first.variance_epsilon,
            ),
            qkv=torch.cat(qkv).to(self.arithmetic),
            o_proj=_frozen(attention.o_proj).to(self.arithmetic),
            gate_up=torch.cat(gate_up).to(self.arithmetic),
            down_proj=_frozen(mlp.down_proj).to(self.arithmetic),
        )

    def _turns(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return ``cos + i sin`` of each token's place in its own sequence, ``[T, 1, D / 2]``."""
        places = torch.cat([torch.arange(n, device=hidden.device) for n in lengths])
        cos, sin = self._inner.rotary_emb(hidden.new_empty(0, dtype=torch.float32), places[None])
        pairs = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :pairs], sin[0, :, :pairs]).unsqueeze(1)


def check_llama(layer: nn.Module, config: Any) -> None:
    """Refuse a decoder layer whose steps are not those of Llama.

    Raises:
        UnsupportedBackboneError: It has biases, another activation or other parts.
    """
    paths = [f"self_attn.{part}_proj" for part in "qkvo"]
    paths += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    try:
        parts = [layer.get_submodule(path) for path in paths]
        layer.get_submodule("input_layernorm"), layer.get_submodule("post_attention_layernorm")
    except AttributeError as err:
        raise UnsupportedBackboneError(f"training runs Llama-like layers only: {err}") from err
    if config.hidden_act != "silu" or any(getattr(p, "bias", None) is not None for p in parts):
        raise UnsupportedBackboneError(
            f"training runs layers with silu and without biases only; this one has "
            f"{config.hidden_act} and {sum(getattr(p, 'bias', None) is not None for p in parts)} "
            "biases"
        )


def _path(layer: FrozenLayer, kind: str) -> str:
    return f"model.layers.{layer.index}.{KINDS[kind]}"


def _frozen(module: nn.Module) -> Tensor:
    weight = module.base.weight if isinstance(module, BemSite) else module.weight
    return weight.detach()  # type: ignore[operator]


def _site(
    residual: Tensor,
    x: Tensor,
    weight: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    code: Tensor | None,
) -> Tensor:
    if factors is None or code is None:
        return residual + linear(x, weight)
    return SiteStep.apply(residual, x, weight, *factors, code)
