"""All decoder layers of a backbone in the compiled library: one call runs as many as are wanted."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bem.adapters.site import BemSite, RowCodes
from bem.backbone import Backbone
from bem.engine.kv import SlotCache, head_width
from bem.engine.native.library import (
    BITS,
    LANES,
    ActiveStruct,
    LayerStruct,
    Library,
    ModelStruct,
    PackedLinear,
    PassStruct,
    SiteStruct,
)
from bem.errors import UnsupportedWeightsError

WIDEST_HEAD, MOST_SHARING = 128, 64


@dataclass(frozen=True)
class Places:
    """Where the tokens of one forward stand; each is a row of its own.

    Attributes:
        slots: ``[R * T]`` int32.
        positions: ``[R * T]`` int32.
        rows: R.
        tokens: T.
    """

    slots: Tensor
    positions: Tensor
    rows: int
    tokens: int


def places(slots: Sequence[int], starts: Sequence[int], tokens: int) -> Places:
    """Return where ``tokens`` new tokens a row stand that begin at ``starts``."""
    if tokens == 1:
        found = torch.tensor([slots, starts], dtype=torch.int32)
        return Places(found[0], found[1], len(slots), 1)
    rows = torch.tensor(slots, dtype=torch.int32).repeat_interleave(tokens)
    begin = torch.tensor(starts, dtype=torch.int32)[:, None]
    positions = begin + torch.arange(tokens, dtype=torch.int32)
    return Places(rows, positions.flatten(), len(slots), tokens)


class NativeLayers:
    """Runs layers over rows of one token each: a step's rows, or the tokens of prompts.

    Every token writes its key and value before any attends, so that those of one prompt see each
    other as they see what lies in their slot; what lies behind a token's position is not read.

    Args:
        library: The kernels.
        backbone: Gives up its matrices; its ``o_proj`` and ``down_proj`` may be sites.
        rows: What each row uses of the sites, or None.
        cache: Where keys and values lie.

    Raises:
        UnsupportedWeightsError: The matrices were taken before, or a shape does not fit.
    """

    def __init__(
        self, library: Library, backbone: Backbone, rows: RowCodes | None, cache: SlotCache
    ) -> None:
        config, inner = backbone.model.config, backbone.model.model
        self._library, self._rows, self._cache = library, rows, cache
        self._width, self._pairs = head_width(config), config.num_key_value_heads
        if why := unfit(backbone):
            raise UnsupportedWeightsError(f"compiled kernels cannot run this backbone: {why}")
        bits = BITS[backbone.weight_format]
        self._kept: list[Tensor] = []  # what the structures point to
        self.products: list[PackedLinear] = []
        self._first_site = next(
            (place for place, block in enumerate(inner.layers) if _has_site(block)),
            len(inner.layers),
        )
        structs = [self._layer(block, bits) for block in inner.layers]
        self._layers = (LayerStruct * len(structs))(*structs)
        self._model = ModelStruct(
            self._layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            self._pairs,
            self._width,
            inner.norm.variance_epsilon,
        )

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def run(
        self, first: int, last: int, hidden: Tensor, places: Places, *, scratch: bool
    ) -> Tensor:
        """Map ``hidden [R, T, F]`` through layers ``first`` to ``last - 1``.

        Args:
            first: First layer.
            last: First layer that is not run.
            hidden: float32, not changed.
            places: Of its tokens.
            scratch: Whether keys and values are kept nowhere: then slots are rows.
        """
        state = hidden.clone(memory_format=torch.contiguous_format)
        if first == last:
            return state
        if scratch:
            shape = (1, places.rows, self._pairs, places.tokens, self._width)
            keys = torch.empty(2, *shape, dtype=self._cache.keys.dtype)
            keys, values, stride = keys[0], keys[1], 0
        else:
            keys, values = self._cache.keys, self._cache.values
            stride = keys.stride(0)
        active, alive = self._active(places) if last > self._first_site else (ActiveStruct(), ())
        work = PassStruct(
            first,
            last,
            len(places.slots),
            torch.get_num_threads(),
            state.data_ptr(),
            places.slots.data_ptr(),
            places.positions.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            stride,
            keys.stride(1),
            keys.stride(2),
            int(keys.dtype == torch.float16),
            self._cache.cos.data_ptr(),
            self._cache.sin.data_ptr(),
            active,
        )
        self._library.run(ctypes.byref(self._model), ctypes.byref(work))
        del alive
        return state

    def _active(self, places: Places) -> tuple[ActiveStruct, Sequence[Tensor]]:
        """Return what the sites do in a pass, and what must live until it ends."""
        if self._rows is None or self._rows.slots is None or self._rows.codes is None:
            return ActiveStruct(), ()
        slots, codes = self._rows.slots.contiguous(), self._rows.codes.float().contiguous()
        steps = codes.shape[1] if codes.dim() == 4 else 1
        if slots.shape[0] != places.rows or steps not in {1, places.tokens}:
            raise ValueError(
                f"codes {tuple(codes.shape)} do not fit {places.rows} x {places.tokens} tokens"
            )
        rows = torch.arange(places.rows, dtype=torch.int32).repeat_interleave(places.tokens)
        each = rows if steps == 1 else torch.arange(len(rows), dtype=torch.int32)
        struct = ActiveStruct(
            slots.data_ptr(),
            codes.data_ptr(),
            rows.data_ptr(),
            each.data_ptr(),
            slots.shape[1],
            codes.shape[-1],
        )
        return struct, (slots, codes, rows, each)

    def _layer(self, block: Any, bits: int) -> LayerStruct:
        attention, mlp = block.self_attn, block.mlp
        read = [attention.q_proj, attention.k_proj, attention.v_proj]
        qkv = self._pack(torch.cat(_taken(read)), bits)
        out, out_site = self._site(attention, "o_proj", bits)
        gate, up = _taken([mlp.gate_proj, mlp.up_proj])
        # 16 outputs of one and the same 16 of the other by turns: who computes both, joins them.
        both = torch.stack([part.unflatten(0, (-1, LANES)) for part in (gate, up)], 1)
        gate_up = self._pack(both.flatten(0, 2), bits)
        down, down_site = self._site(mlp, "down_proj", bits)
        gains = [block.input_layernorm.weight, block.post_attention_layernorm.weight]
        before, between = (self._keep(gain.detach().clone()) for gain in gains)
        return LayerStruct(
            qkv, out, gate_up, down, before.data_ptr(), between.data_ptr(), out_site, down_site
        )

    def _site(self, parent: nn.Module, name: str, bits: int) -> tuple[Any, SiteStruct]:
        module = getattr(parent, name)
        if not isinstance(module, BemSite):
            return self._pack(_taken([module])[0], bits), SiteStruct()
        struct = self._pack(_taken([module.base])[0], bits)
        module.base = self.products[-1]
        down, up, scale = module.A.data, module.B.data.transpose(1, 2), module.scale.data
        if not (down.is_contiguous() and up.is_contiguous()):
            raise UnsupportedWeightsError(f"the factors of site {name} do not lie rank by rank")
        self._kept += [down, up, scale]
        return struct, SiteStruct(down.data_ptr(), up.data_ptr(), scale.data_ptr())

    def _pack(self, weight: Tensor, bits: int) -> Any:
        self.products.append(PackedLinear(self._library, weight, bits=bits))
        return self.products[-1].struct

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor)
        return tensor


def _has_site(block: Any) -> bool:
    return isinstance(block.self_attn.o_proj, BemSite) or isinstance(block.mlp.down_proj, BemSite)


def _taken(parts: Sequence[Any]) -> list[Tensor]:
    """Take the weights of linear layers out of the model."""
    if any(not isinstance(part, nn.Linear) or not part.weight.numel() for part in parts):
        raise UnsupportedWeightsError(
            "another engine holds the quantised weights of this backbone; load it again"
        )
    weights = [part.weight.detach() for part in parts]
    for part in parts:
        part.weight.data = part.weight.new_empty(0)
    return weights


def unfit(backbone: Backbone) -> str:
    """Return why the kernels cannot run a backbone, an empty text where they can."""
    model, config = backbone.model, backbone.model.config
    width, inner = head_width(config), config.intermediate_size
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"the model is {model.dtype} on {model.device}, not float32 on a CPU"
    if inner % LANES:
        return f"the inner width {inner} is not a multiple of {LANES}"
    if config.num_attention_heads // config.num_key_value_heads > MOST_SHARING:
        return f"more than {MOST_SHARING} heads share keys"
    if width % 2 or width > WIDEST_HEAD:
        return f"heads are {width} wide, not even or above {WIDEST_HEAD}"
    return ""
