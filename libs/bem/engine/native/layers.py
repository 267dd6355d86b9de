"""Decoder layers in the compiled library: one call runs any range of layers."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bem.adapters.site import BemSite, RowCodes
from bem.backbone import Backbone
from bem.engine.kv_cache import KVCache, head_dim, rotate
from bem.engine.native.library import (
    BITS,
    LANES,
    ActiveAdaptersStruct,
    ForwardPassStruct,
    LayerStruct,
    Library,
    ModelStruct,
    PackedLinear,
    SiteStruct,
)
from bem.errors import UnsupportedWeightsError

MAX_HEAD_DIM, MAX_QUERY_HEADS_PER_KEY = 128, 64


@dataclass(frozen=True)
class TokenPlacement:
    """Slots and positions of the tokens of one forward pass; each token is a row of its own.

    Attributes:
        slots: ``[R * T]`` int32 slots of the KV cache.
        positions: ``[R * T]`` int32 places in the slot.
        angles: ``[R * T]`` int32 positions in the text; the same unless entries were evicted.
        rows: Number of sequences, R.
        tokens: Number of tokens per sequence, T.
    """

    slots: Tensor
    positions: Tensor
    angles: Tensor
    rows: int
    tokens: int


def place_tokens(
    slots: Sequence[int], starts: Sequence[int], tokens: int, evicted: Sequence[int] | None = None
) -> TokenPlacement:
    """Return the placement of new tokens; arguments as in ``KVCache.plan``."""
    if tokens == 1:
        both = torch.tensor([slots, starts], dtype=torch.int32)
        angles = both[1] if evicted is None else both[1] + torch.tensor(evicted, dtype=torch.int32)
        return TokenPlacement(both[0], both[1], angles, len(slots), 1)
    rows = torch.tensor(slots, dtype=torch.int32).repeat_interleave(tokens)
    begin = torch.tensor(starts, dtype=torch.int32)[:, None]
    positions = (begin + torch.arange(tokens, dtype=torch.int32)).flatten()
    angles = positions
    if evicted is not None:
        angles = positions + torch.tensor(evicted, dtype=torch.int32).repeat_interleave(tokens)
    return TokenPlacement(rows, positions, angles, len(slots), tokens)


class NativeLayers:
    """Decoder layers over rows of one token each: a decode step's rows or the tokens of prompts.

    Every token writes its key and value before any token attends, so the tokens of one prompt see
    each other just as they see what is already in their slot. Positions after a token are not read.

    Args:
        library: Compiled kernels.
        backbone: Model that gives up its matrices; ``o_proj`` and ``down_proj`` may be sites.
        rows: Slots and codes of each row in the sites, or None.
        kv_cache: Storage of keys and values.

    Raises:
        UnsupportedWeightsError: The matrices were taken before, or a shape is not supported.
    """

    def __init__(
        self, library: Library, backbone: Backbone, rows: RowCodes | None, kv_cache: KVCache
    ) -> None:
        config, inner = backbone.model.config, backbone.model.model
        self._library, self._rows, self._kv_cache = library, rows, kv_cache
        self._head_dim, self._kv_heads = head_dim(config), config.num_key_value_heads
        if reason := unsupported_reason(backbone):
            raise UnsupportedWeightsError(
                f"backbone: the compiled kernels do not support it: {reason}; use torch's kernels"
            )
        bits = BITS[backbone.weight_format]
        self._referenced: list[Tensor] = []  # memory that the structures point to
        self.linears: list[PackedLinear] = []
        self._query_inputs: list[tuple[PackedLinear, Tensor]] = []  # fused projection, norm's gain
        self._first_site = next(
            (index for index, block in enumerate(inner.layers) if _has_site(block)),
            len(inner.layers),
        )
        structs = [self._layer(block, bits) for block in inner.layers]
        self._layers = (LayerStruct * len(structs))(*structs)
        self._model = ModelStruct(
            self._layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            self._kv_heads,
            self._head_dim,
            inner.norm.variance_epsilon,
        )

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def run(
        self, first: int, last: int, hidden: Tensor, placement: TokenPlacement, *, transient: bool
    ) -> Tensor:
        """Map ``hidden [R, T, F]`` through layers ``first`` to ``last - 1``.

        Args:
            first: First layer.
            last: First layer that is not run.
            hidden: float32 input; it is not changed.
            placement: Slots and positions of the tokens.
            transient: Whether keys and values are discarded; then the slots are the rows.
        """
        state = hidden.clone(memory_format=torch.contiguous_format)
        if first == last:
            return state
        if transient:
            shape = (1, placement.rows, self._kv_heads, placement.tokens, self._head_dim)
            both = torch.empty(2, *shape, dtype=self._kv_cache.keys.dtype)
            keys, values, layer_stride = both[0], both[1], 0
        else:
            keys, values = self._kv_cache.keys, self._kv_cache.values
            layer_stride = keys.stride(0)
        # The lower half has no sites: codes of the last upper pass may still be set there.
        has_sites = last > self._first_site
        active, referenced = self._active(placement) if has_sites else (ActiveAdaptersStruct(), ())
        forward_pass = ForwardPassStruct(
            first,
            last,
            len(placement.slots),
            self._library.thread_count,
            state.data_ptr(),
            placement.slots.data_ptr(),
            placement.positions.data_ptr(),
            placement.angles.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            layer_stride,
            keys.stride(1),
            keys.stride(2),
            int(keys.dtype == torch.float16),
            self._kv_cache.cos.data_ptr(),
            self._kv_cache.sin.data_ptr(),
            active,
        )
        self._library.run_layers(ctypes.byref(self._model), ctypes.byref(forward_pass))
        del referenced  # kept alive until the call has returned
        return state

    def queries(self, index: int, hidden: Tensor, placement: TokenPlacement) -> Tensor:
        """Return the rotated queries ``[R, T, Q, D]`` of a layer's input ``hidden [R, T, F]``."""
        qkv, gain = self._query_inputs[index]
        normed = torch.rms_norm(hidden, hidden.shape[-1:], gain, self._model.epsilon)
        heads = qkv.forward(normed).unflatten(-1, (-1, self._head_dim))[:, :, : self._model.heads]
        angles = placement.angles.long().view(placement.rows, placement.tokens)
        cos, sin = self._kv_cache.cos[angles], self._kv_cache.sin[angles]
        return rotate(heads, cos.unsqueeze(2), sin.unsqueeze(2))

    def _active(self, placement: TokenPlacement) -> tuple[ActiveAdaptersStruct, Sequence[Tensor]]:
        """Return the active adapters of a pass, and the tensors that the structure points to."""
        if self._rows is None or self._rows.slots is None or self._rows.codes is None:
            return ActiveAdaptersStruct(), ()
        slots, codes = self._rows.slots.contiguous(), self._rows.codes.float().contiguous()
        steps = codes.shape[1] if codes.dim() == 4 else 1
        if slots.shape[0] != placement.rows or steps not in {1, placement.tokens}:
            raise ValueError(
                f"codes: {tuple(codes.shape)} do not fit {placement.rows} x {placement.tokens} "
                "tokens; give one code per row or one per token"
            )
        slot_rows = torch.arange(placement.rows, dtype=torch.int32).repeat_interleave(
            placement.tokens
        )
        code_rows = slot_rows if steps == 1 else torch.arange(len(slot_rows), dtype=torch.int32)
        factors = self._rows.site_factors
        if factors is not None:
            factors = factors.float().flatten(1).contiguous()
        struct = ActiveAdaptersStruct(
            slots.data_ptr(),
            codes.data_ptr(),
            slot_rows.data_ptr(),
            code_rows.data_ptr(),
            slots.shape[1],
            codes.shape[-1],
            None if factors is None else factors.data_ptr(),
            0 if factors is None else factors.shape[1],
        )
        return struct, (slots, codes, slot_rows, code_rows, *([] if factors is None else [factors]))

    def _layer(self, block: Any, bits: int) -> LayerStruct:
        attention, mlp = block.self_attn, block.mlp
        qkv_parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        qkv = self._pack(torch.cat(_take_weights(qkv_parts)), bits)
        packed_qkv = self.linears[-1]
        out, out_site = self._site(attention, "o_proj", bits)
        gate, up = _take_weights([mlp.gate_proj, mlp.up_proj])
        # 16 outputs of gate and the same 16 of up alternate: one thread computes and joins both.
        both = torch.stack([part.unflatten(0, (-1, LANES)) for part in (gate, up)], 1)
        gate_up = self._pack(both.flatten(0, 2), bits)
        down, down_site = self._site(mlp, "down_proj", bits)
        gains = [block.input_layernorm.weight, block.post_attention_layernorm.weight]
        attention_gain, mlp_gain = (self._reference(gain.detach().clone()) for gain in gains)
        self._query_inputs.append((packed_qkv, attention_gain))
        return LayerStruct(
            qkv,
            out,
            gate_up,
            down,
            attention_gain.data_ptr(),
            mlp_gain.data_ptr(),
            out_site,
            down_site,
        )

    def _site(self, parent: nn.Module, name: str, bits: int) -> tuple[Any, SiteStruct]:
        module = getattr(parent, name)
        if not isinstance(module, BemSite):
            return self._pack(_take_weights([module])[0], bits), SiteStruct()
        struct = self._pack(_take_weights([module.base])[0], bits)
        module.base = self.linears[-1]
        down, up, scale = module.A.data, module.B.data.transpose(1, 2), module.scale.data
        if not (down.is_contiguous() and up.is_contiguous()):
            raise UnsupportedWeightsError(f"site {name}: its factors are not stored rank by rank")
        self._referenced += [down, up, scale]
        return struct, SiteStruct(down.data_ptr(), up.data_ptr(), scale.data_ptr(), module.index)

    def _pack(self, weight: Tensor, bits: int) -> Any:
        self.linears.append(PackedLinear(self._library, weight, bits=bits))
        return self.linears[-1].struct

    def _reference(self, tensor: Tensor) -> Tensor:
        self._referenced.append(tensor)
        return tensor


def unsupported_reason(backbone: Backbone) -> str:
    """Return why the kernels do not support a backbone; an empty text if they do."""
    model, config, family = backbone.model, backbone.model.config, backbone.family
    features = family.beyond_llama(config)
    window = family.window(config)
    if window is not None and window < backbone.context_tokens:
        features.append(f"a sliding window of {window} tokens")
    if features:
        return f"they have no {family.label} layers ({', '.join(features)})"
    width, intermediate = head_dim(config), config.intermediate_size
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"the model is {model.dtype} on {model.device}, not float32 on a CPU"
    if intermediate % LANES:
        return f"the intermediate size {intermediate} is not a multiple of {LANES}"
    if config.num_attention_heads // config.num_key_value_heads > MAX_QUERY_HEADS_PER_KEY:
        return f"more than {MAX_QUERY_HEADS_PER_KEY} query heads share keys"
    if width % 2 or width > MAX_HEAD_DIM:
        return f"the head width {width} is odd or above {MAX_HEAD_DIM}"
    return ""


def _has_site(block: Any) -> bool:
    return isinstance(block.self_attn.o_proj, BemSite) or isinstance(block.mlp.down_proj, BemSite)


def _take_weights(parts: Sequence[Any]) -> list[Tensor]:
    """Take the weights of linear layers out of the model."""
    if any(not isinstance(part, nn.Linear) or not part.weight.numel() for part in parts):
        raise UnsupportedWeightsError(
            "another engine holds the quantised weights of this backbone; load it again"
        )
    weights = [part.weight.detach() for part in parts]
    for part in parts:
        part.weight.data = part.weight.new_empty(0)
    return weights
