"""The key-value cache: one slot of fixed length a row, allocated once."""

import math
import mmap
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bem.backbone import Backbone


@dataclass(frozen=True)
class Span:
    """Where one forward reads and writes; the same for all layers.

    Attributes:
        slots: ``[R]`` slots of the rows.
        positions: ``[R, T]`` places in each slot.
        cos: ``[R, T, 1, D]`` of the rotary embedding.
        sin: The same, negative in the lower half.
        first: Lowest slot that attention reads.
        count: Slots that attention reads, those between the rows' included.
        length: Positions that attention reads.
        index: ``[R]`` place of each row among the slots read, or None when they are the same.
        mask: ``[count, 1, T, length]`` additive, or None where nothing read is hidden.
        causal: Whether the new tokens are all there is, each hidden from those before it.
    """

    slots: Tensor
    positions: Tensor
    cos: Tensor
    sin: Tensor
    first: int
    count: int
    length: int
    index: Tensor | None
    mask: Tensor | None
    causal: bool = False


class KeyValues(Protocol):
    """Where a forward writes its keys and values and reads all that attention needs."""

    def write(self, layer: int, span: Span, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in ``[R, T, H, D]`` each and return what attention reads, ``[count, H, S, D]``."""
        ...


class SlotCache:
    """Keys and values of all rows, ``[L, slots, H, C, D]`` each.

    Attention reads a view of neighbouring slots, never a copy: rows are given the lowest free
    slots, and what lies between two rows is computed along and thrown away.

    Args:
        backbone: Tells layers, heads, width, type and device.
        rows: Number of requests that run at once.
        context_tokens: Positions of each row.
    """

    def __init__(self, backbone: Backbone, *, rows: int, context_tokens: int) -> None:
        config = backbone.model.config
        like = backbone.model.lm_head.weight
        width = head_width(config)
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, context_tokens, width)
        self.keys = _zeros(shape, like)
        self.values = _zeros(shape, like)
        every = torch.arange(context_tokens, device=like.device)[None]
        cos, sin = backbone.model.model.rotary_emb(like[:1, None, :1], every)
        self.cos, self.sin = cos[0].contiguous(), sin[0].clone()  # [C, D]
        # The lower half turns against the upper one: its sign lies in the angles.
        self.sin[:, : width // 2].neg_()

    def span(self, slots: list[int], starts: list[int], tokens: int) -> Span:
        """Plan a forward of ``tokens`` new tokens a row that begin at ``starts``."""
        device = self.keys.device
        first, length = min(slots), max(starts) + tokens
        count = max(slots) - first + 1
        at = torch.tensor(starts, device=device)
        positions = at[:, None] + torch.arange(tokens, device=device)
        where = torch.tensor(slots, device=device)
        same = slots == list(range(first, first + count))
        mask = None
        causal = len(slots) == 1 and tokens == length > 1
        if not causal and (tokens > 1 or min(starts) != max(starts) or not same):
            columns = torch.arange(length, device=device)
            hidden = columns > positions[:, None, :, None]
            mask = torch.zeros((count, 1, tokens, length), dtype=self.keys.dtype, device=device)
            gap = torch.zeros(hidden.shape, dtype=mask.dtype, device=device).masked_fill(
                hidden, torch.finfo(mask.dtype).min
            )
            mask[where - first] = gap
        return Span(
            slots=where,
            positions=positions,
            cos=self.cos[positions].unsqueeze(2),
            sin=self.sin[positions].unsqueeze(2),
            first=first,
            count=count,
            length=length,
            index=None if same else where - first,
            mask=mask,
            causal=causal,
        )

    def step_span(self, places: Tensor, length: int) -> Span:
        """Plan one token at ``places [S, 1]`` of slots 0 to S - 1, without a look at the values.

        Args:
            places: On the cache's device.
            length: Positions that attention reads, whoever needs fewer.
        """
        count = len(places)
        columns = torch.arange(length, device=places.device)
        gap = torch.zeros(count, 1, 1, length, dtype=self.keys.dtype, device=places.device)
        gap = gap.masked_fill(columns > places[:, None, :, None], torch.finfo(gap.dtype).min)
        return Span(
            slots=torch.arange(count, device=places.device),
            positions=places,
            cos=self.cos[places].unsqueeze(2),
            sin=self.sin[places].unsqueeze(2),
            first=0,
            count=count,
            length=length,
            index=None,
            mask=gap,
        )

    def batch_span(self, rows: int, tokens: int) -> Span:
        """Plan a forward of ``rows`` texts that begin at 0 and use no slot."""
        positions = torch.arange(tokens, device=self.keys.device).expand(rows, -1)
        return Span(
            slots=positions[:, 0],
            positions=positions,
            cos=self.cos[positions].unsqueeze(2),
            sin=self.sin[positions].unsqueeze(2),
            first=0,
            count=rows,
            length=tokens,
            index=None,
            mask=None,
            causal=tokens > 1,
        )

    def write(self, layer: int, span: Span, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``[R, T, H, D]`` and return all that attention reads, ``[count, H, length, D]``."""
        slots = slice(span.first, span.first + span.count)
        out = []
        for kept, new in ((self.keys[layer], keys), (self.values[layer], values)):
            kept[span.slots[:, None], :, span.positions] = new
            out.append(kept[slots, :, : span.length])
        return out[0], out[1]

    def copy(self, slot: int, layers: slice, begin: int, end: int) -> Tensor:
        """Return a copy ``[2, L, H, T, D]`` of the keys and values of positions in one slot."""
        place = (layers, slot, slice(None), slice(begin, end))
        return torch.stack([self.keys[place], self.values[place]])

    def fill(self, slot: int, layers: slice, begin: int, block: Tensor) -> None:
        """Put a copy made by ``copy`` into a slot."""
        place = (layers, slot, slice(None), slice(begin, begin + block.shape[3]))
        self.keys[place], self.values[place] = block[0], block[1]


class Scratch:
    """Keys and values of one forward over whole texts: nothing is kept."""

    def write(
        self,
        layer: int,  # noqa: ARG002 - the protocol's
        span: Span,  # noqa: ARG002
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return ``[R, T, H, D]`` as attention reads it, ``[R, H, T, D]``."""
        return keys.transpose(1, 2), values.transpose(1, 2)


def head_width(config: Any) -> int:
    """Return the width of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return zeros of ``like``'s type and device; on a CPU pages are taken when first written.

    Small pages: with huge ones a slot's first token waits until all of the slot is zeroed, 250 ms
    at 2,560 positions of the packaged model.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    if small := getattr(mmap, "MADV_NOHUGEPAGE", None):
        pages.madvise(small)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)
