"""Decoder layers in the compiled library: one call runs any range of layers."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bem.adapters.bank import AdapterBank
from bem.adapters.joined_sites import add_sites
from bem.adapters.row_codes import RowCodes
from bem.adapters.site import BemSite
from bem.backbone import Backbone
from bem.engine.attention_inputs import AttentionInputs, FrozenNorm
from bem.engine.kv_cache import KVCache
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
from bem.model_families import head_dim

MAX_HEAD_DIM, MAX_QUERY_HEADS_PER_KEY = 128, 64
WIDE_HEAD_DIMS = range(242, 257, 2)
"""Head widths above ``MAX_HEAD_DIM`` that the kernels support as well."""


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
        backbone: Model that gives up its matrices; its linear layers may be sites.
        bank: Adapters in the sites, or None.
        kv_cache: Storage of keys and values.

    Raises:
        UnsupportedWeightsError: The matrices were taken before, or a shape is not supported.
    """

    def __init__(
        self, library: Library, backbone: Backbone, bank: AdapterBank | None, kv_cache: KVCache
    ) -> None:
        config, inner = backbone.model.config, backbone.model.model
        self._library, self._bank, self._kv_cache = library, bank, kv_cache
        self._head_dim, self._kv_heads = head_dim(config), config.num_key_value_heads
        if reason := unsupported_reason(backbone):
            raise UnsupportedWeightsError(
                f"backbone: the compiled kernels do not support it: {reason}; use torch's kernels"
            )
        bits = BITS[backbone.weight_format]
        self._referenced: list[Tensor] = []  # memory that the structures point to
        self.linears: list[PackedLinear] = []
        self._query_inputs: list[tuple[Callable[[Tensor], Tensor], AttentionInputs]] = []
        structs = [self._layer(backbone, index, bits) for index in range(len(inner.layers))]
        self._layers = (LayerStruct * len(structs))(*structs)
        constants = backbone.family.constants(config)
        self._model = ModelStruct(
            self._layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            self._kv_heads,
            self._head_dim,
            config.rms_norm_eps,
            constants.attention or self._head_dim**-0.5,
            constants.attention_cap or 0,
            constants.residual,
            backbone.family.activation == "gelu",
            backbone.family.qk_norm == "projection",
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
        active, referenced = self._active(self._codes(last), placement)
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
            *(angles.data_ptr() for angles in self._kv_cache.window_angles),
            active,
        )
        self._library.run_layers(ctypes.byref(self._model), ctypes.byref(forward_pass))
        del referenced  # kept alive until the call has returned
        return state

    def queries(self, index: int, hidden: Tensor, placement: TokenPlacement) -> Tensor:
        """Return the queries ``[R, T, Q, D]`` of a layer's input ``hidden [R, T, F]``."""
        qkv, inputs = self._query_inputs[index]
        at = placement.angles.long().view(placement.rows, placement.tokens)
        cache = self._kv_cache
        angles = cache.window_angles if inputs.has_window else (cache.cos, cache.sin)
        return inputs.queries(hidden, qkv, *(one[at].unsqueeze(2) for one in angles))

    def _codes(self, last: int) -> RowCodes | None:
        """Return the codes of the half whose layers end before ``last``."""
        if self._bank is None:
            return None
        return self._bank.row_codes if last > self._bank.first_layer else self._bank.lower_codes

    @staticmethod
    def _active(
        row_codes: RowCodes | None, placement: TokenPlacement
    ) -> tuple[ActiveAdaptersStruct, Sequence[Tensor]]:
        """Return the active adapters of a pass, and the tensors that the structure points to."""
        if row_codes is None or row_codes.slots is None or row_codes.codes is None:
            return ActiveAdaptersStruct(), ()
        slots, codes = row_codes.slots.contiguous(), row_codes.codes.float().contiguous()
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
        factors = row_codes.site_factors
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

    def _layer(self, backbone: Backbone, index: int, bits: int) -> LayerStruct:
        family, block = backbone.family, backbone.layers[index]
        attention, mlp = block.self_attn, block.mlp
        inputs = AttentionInputs(backbone, index)  # before the weights are taken
        qkv_modules = [getattr(attention, name) for name in family.qkv]
        qkv = self._pack(torch.cat(_take_weights(qkv_modules)), bits)
        query_product = add_sites(self.linears[-1].forward, qkv_modules)
        self._query_inputs.append((query_product, inputs))
        out, out_site = self._site(attention, "o_proj", bits)
        gate_up_modules = [getattr(mlp, name) for name in family.gate_up]
        gate_up_halves = torch.cat(_take_weights(gate_up_modules)).chunk(2)
        # 16 outputs of gate and the same 16 of up alternate: one thread computes and joins both.
        both = torch.stack([part.unflatten(0, (-1, LANES)) for part in gate_up_halves], 1)
        gate_up = self._pack(both.flatten(0, 2), bits)
        down, down_site = self._site(mlp, "down_proj", bits)
        names = (family.mlp_norms.before, family.attention_norms.after, family.mlp_norms.after)
        norms = [FrozenNorm.of(backbone, getattr(block, one)) if one else None for one in names]
        window = self._kv_cache.window if inputs.has_window else None
        return LayerStruct(
            qkv,
            out,
            gate_up,
            down,
            *(self._gain(norm) for norm in (inputs.input_norm, *norms)),
            self._address(inputs.bias),
            *(self._gain(norm) for norm in inputs.norms or (None, None)),
            (SiteStruct * 3)(*self._joined_sites(qkv_modules)),
            (SiteStruct * 2)(*self._joined_sites(gate_up_modules)),
            out_site,
            down_site,
            window or 0,
            inputs.is_rotated,
            inputs.has_window,
        )

    def _gain(self, norm: FrozenNorm | None) -> int | None:
        return self._address(None if norm is None else norm.gain)

    def _address(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor, which stays referenced; None for a null pointer."""
        if tensor is None:
            return None
        self._referenced.append(tensor)
        return tensor.data_ptr()

    def _site(self, parent: nn.Module, name: str, bits: int) -> tuple[Any, SiteStruct]:
        module = getattr(parent, name)
        struct = self._pack(_take_weights([module])[0], bits)
        if not isinstance(module, BemSite):
            return struct, SiteStruct()
        module.base = self.linears[-1]
        return struct, self._site_struct(module, 0)

    def _joined_sites(self, modules: Sequence[Any]) -> list[SiteStruct]:
        """Return the sites among layers whose outputs one matrix joins."""
        structs, offset = [], 0
        for module in modules:
            if isinstance(module, BemSite):
                structs.append(self._site_struct(module, offset))
            offset += module.B.shape[1] if isinstance(module, BemSite) else module.out_features
        return structs

    def _site_struct(self, site: BemSite, offset: int) -> SiteStruct:
        down, up, scale = site.A.data, site.B.data.transpose(1, 2), site.scale.data
        if not (down.is_contiguous() and up.is_contiguous()):
            raise UnsupportedWeightsError("site: its factors are not stored rank by rank")
        self._referenced += [down, up, scale, site.used_ranks]
        addresses = [one.data_ptr() for one in (down, up, scale, site.used_ranks)]
        is_float16 = down.dtype == torch.float16
        return SiteStruct(*addresses, site.index, offset, up.shape[2], is_float16)

    def _pack(self, weight: Tensor, bits: int) -> Any:
        self.linears.append(PackedLinear(self._library, weight, bits=bits))
        return self.linears[-1].struct


def unsupported_reason(backbone: Backbone) -> str:
    """Return why the kernels do not support a backbone; an empty text if they do."""
    model, config = backbone.model, backbone.model.config
    width, intermediate = head_dim(config), config.intermediate_size
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"the model is {model.dtype} on {model.device}, not float32 on a CPU"
    if intermediate % LANES:
        return f"the intermediate size {intermediate} is not a multiple of {LANES}"
    if config.num_attention_heads // config.num_key_value_heads > MAX_QUERY_HEADS_PER_KEY:
        return f"more than {MAX_QUERY_HEADS_PER_KEY} query heads share keys"
    if width % 2 or (width > MAX_HEAD_DIM and width not in WIDE_HEAD_DIMS):
        wide = f"{WIDE_HEAD_DIMS[0]} to {WIDE_HEAD_DIMS[-1]}"
        return f"the head width {width} is odd, or above {MAX_HEAD_DIM} and not {wide}"
    return ""


def _take_weights(parts: Sequence[Any]) -> list[Tensor]:
    """Take the weights of linear layers, or of the base layers of sites, out of the model."""
    parts = [part.base if isinstance(part, BemSite) else part for part in parts]
    if any(not isinstance(part, nn.Linear) or not part.weight.numel() for part in parts):
        raise UnsupportedWeightsError(
            "another engine holds the quantised weights of this backbone; load it again"
        )
    weights = [part.weight.detach() for part in parts]
    for part in parts:
        part.weight.data = part.weight.new_empty(0)
    return weights
