"""KV cache: one slot of fixed length per sequence, written lazily, and attention plans over it.

A cache policy may evict entries of a complete prompt. What stays moves to the front of the slot, so
that a token is stored at another place than its position in the text; keys keep their angles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.lazy_memory import LazyZeros
from bem.model_families import FULL, SLIDING, head_dim

KEPT_POSITIONS = 256
"""Positions of a slot whose memory stays when its sequence ends: most requests are shorter."""
RETAINED_BYTES = 2**27
"""Memory of ended sequences that stays until the engine is idle: to offer it takes milliseconds, in
which the next request waits."""


@dataclass(frozen=True)
class WindowPlan:
    """What layers with a sliding window use instead of the fields of ``AttentionPlan``.

    Attributes:
        cos: As in ``AttentionPlan``.
        sin: As in ``AttentionPlan``.
        mask: As in ``AttentionPlan``, or ``[1, 1, T, key_positions]``; positions before the window
            are hidden too.
        causal: As in ``AttentionPlan``.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    causal: bool


@dataclass(frozen=True)
class AttentionPlan:
    """Positions, masks and rotary angles of one forward pass, shared by all layers.

    Attributes:
        slots: ``[R]`` slots of the rows.
        positions: ``[R, T]`` places in each slot; with evicted entries they are before the tokens'
            positions in the text, which the angles follow.
        cos: ``[R, T, 1, D]`` cosines of the rotary embedding.
        sin: ``[R, T, 1, D]`` sines, negated in the lower half of D.
        first_slot: Lowest slot that attention reads.
        slot_count: Number of slots that attention reads, including those between the rows' slots.
        key_positions: Number of positions that attention reads.
        row_index: ``[R]`` index of each row among the slots read; None when they are the same.
        mask: ``[slot_count, 1, T, key_positions]`` additive mask; None where nothing is hidden.
        causal: Whether the new tokens are all positions read, each hidden from those before it.
        window: What differs in layers with a sliding window; None where nothing does.
    """

    slots: Tensor
    positions: Tensor
    cos: Tensor
    sin: Tensor
    first_slot: int
    slot_count: int
    key_positions: int
    row_index: Tensor | None
    mask: Tensor | None
    causal: bool = False
    window: WindowPlan | None = None


class KeyValueStore(Protocol):
    """Storage that a forward pass writes its keys and values to."""

    def write(
        self, layer: int, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store ``[R, T, H, D]`` each and return what attention reads.

        Returns:
            Keys and values, ``[slot_count, H, key_positions, D]`` each.
        """
        ...


class KVCache:
    """Keys and values of all sequences, ``[L, slots, H, C, D]`` each.

    Attention reads a view of neighbouring slots and never a copy. Sequences take the lowest free
    slots; slots between two rows are computed too, and their results are discarded. On a CPU a
    position takes memory from its first write; some time after the slot is released, the kernel
    takes it back when memory is short.

    Args:
        backbone: Model; gives the numbers of layers and heads, data type and device.
        slots: Number of sequences that run at once.
        context_tokens: Positions of each slot.

    Attributes:
        window: Positions that a token attends to in layers with a sliding window; None where these
            are no fewer than a slot has.
        window_angles: Cosines and sines of these layers.
    """

    def __init__(self, backbone: Backbone, *, slots: int, context_tokens: int) -> None:
        config = backbone.model.config
        like = backbone.model.lm_head.weight
        width = head_dim(config)
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, context_tokens, width)
        self._memory = LazyZeros(shape, like), LazyZeros(shape, like)
        self.keys, self.values = (memory.tensor for memory in self._memory)
        self._retained: dict[int, int] = {}  # positions of slots, all above KEPT_POSITIONS
        # A position beyond the model's own, which no token that counts is at, would change the
        # angles of all others where they depend on the length (rope_type dynamic).
        last = max(1, min(context_tokens, backbone.context_tokens)) - 1
        positions = torch.arange(context_tokens, device=like.device).clamp(max=last)[None]
        family, embedding = backbone.family, backbone.model.model.rotary_emb
        window = family.window(config)
        self.window = None if window is None or window >= context_tokens else window
        kinds = sorted(set(config.layer_types)) if family.rope_per_type else []

        def angles(kind: str) -> tuple[Tensor, Tensor]:
            own = (kind if kind in kinds else kinds[0],) if kinds else ()
            cos, sin = embedding(like[:1, None, :1], positions, *own)
            # The rotation subtracts in the lower half of a head: the sign is stored with the sines.
            signs = torch.ones_like(sin[0])
            signs[:, : width // 2] = -1
            return cos[0].contiguous(), sin[0] * signs

        self.cos, self.sin = angles(FULL)  # [C, D]
        self.window_angles = angles(SLIDING) if len(kinds) > 1 else (self.cos, self.sin)

    @property
    def position_bytes(self) -> int:
        """Bytes of one position of one slot, in all layers and heads."""
        layers, _, heads, _, width = self.keys.shape
        return 2 * layers * heads * width * self.keys.element_size()

    def plan(
        self,
        slots: list[int],
        starts: list[int],
        tokens: int,
        evicted: Sequence[int] | None = None,
    ) -> AttentionPlan:
        """Plan a forward pass of ``tokens`` new tokens per row.

        Args:
            slots: Slot of each row.
            starts: Place in the slot at which the new tokens of each row begin.
            tokens: New tokens of a row.
            evicted: Positions evicted from each slot; the angles count them. None for none.
        """
        device = self.keys.device
        first, key_positions = min(slots), max(starts) + tokens
        count = max(slots) - first + 1
        start = torch.tensor(starts, device=device)
        positions = start[:, None] + torch.arange(tokens, device=device)
        slot = torch.tensor(slots, device=device)
        contiguous = slots == list(range(first, first + count))
        mask = None
        causal = len(slots) == 1 and tokens == key_positions > 1
        places = slot - first, count
        if not causal and (tokens > 1 or min(starts) != max(starts) or not contiguous):
            mask = _spread(self._mask(positions, key_positions), *places)
        angles = positions
        if evicted is not None:
            angles = positions + torch.tensor(evicted, device=device)[:, None]
        plan = AttentionPlan(
            slots=slot,
            positions=positions,
            cos=self.cos[angles].unsqueeze(2),
            sin=self.sin[angles].unsqueeze(2),
            first_slot=first,
            slot_count=count,
            key_positions=key_positions,
            row_index=None if contiguous else slot - first,
            mask=mask,
            causal=causal,
        )
        return self._with_window(plan, angles, lambda one: _spread(one, *places))

    def plan_decode_step(
        self, positions: Tensor, angles: Tensor, key_positions: int
    ) -> AttentionPlan:
        """Plan one token of slots 0 to S - 1; no value is read, so that CUDA can capture it.

        Args:
            positions: ``[S, 1]`` places in the slots, on the device of the cache.
            angles: ``[S, 1]`` positions in the texts.
            key_positions: Positions that attention reads in every slot.
        """
        plan = AttentionPlan(
            slots=torch.arange(len(positions), device=positions.device),
            positions=positions,
            cos=self.cos[angles].unsqueeze(2),
            sin=self.sin[angles].unsqueeze(2),
            first_slot=0,
            slot_count=len(positions),
            key_positions=key_positions,
            row_index=None,
            mask=self._mask(positions, key_positions),
        )
        return self._with_window(plan, angles)

    def plan_full_texts(self, rows: int, tokens: int) -> AttentionPlan:
        """Plan a forward pass of ``rows`` texts that begin at position 0 and use no slot."""
        positions = torch.arange(tokens, device=self.keys.device).expand(rows, -1)
        plan = AttentionPlan(
            slots=positions[:, 0],
            positions=positions,
            cos=self.cos[positions].unsqueeze(2),
            sin=self.sin[positions].unsqueeze(2),
            first_slot=0,
            slot_count=rows,
            key_positions=tokens,
            row_index=None,
            mask=None,
            causal=tokens > 1,
        )
        return self._with_window(plan, positions)

    def _with_window(
        self,
        plan: AttentionPlan,
        angles: Tensor,
        spread: Callable[[Tensor], Tensor] = lambda mask: mask,
    ) -> AttentionPlan:
        """Return a plan with that of the layers with a window, if anything differs in these.

        Args:
            plan: Plan of the other layers.
            angles: ``[R, T]`` positions in the texts.
            spread: Maps the masks of the rows to those of all slots that attention reads.
        """
        hides = self.window is not None and plan.key_positions > self.window
        own_cos, own_sin = self.window_angles
        if not hides and own_cos is self.cos:
            return plan
        mask, causal = plan.mask, plan.causal
        if hides:
            # In texts without slots all rows are at the same positions.
            rows = plan.positions[:1] if causal else plan.positions
            mask = spread(self._mask(rows, plan.key_positions, self.window))
            causal = False
        cos, sin = own_cos[angles].unsqueeze(2), own_sin[angles].unsqueeze(2)
        return replace(plan, window=WindowPlan(cos, sin, mask, causal))

    def _mask(self, positions: Tensor, key_positions: int, window: int | None = None) -> Tensor:
        """Return the additive mask ``[R, 1, T, key_positions]`` of tokens at ``positions [R, T]``.

        Args:
            positions: Places of the tokens in their slots.
            key_positions: Positions that attention reads.
            window: Positions that each token attends to; None for all up to its own.
        """
        columns = torch.arange(key_positions, device=positions.device)
        at = positions[:, None, :, None]
        hidden = columns > at
        if window is not None:
            hidden |= columns <= at - window
        mask = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=positions.device)
        return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)

    def write(
        self, layer: int, plan: AttentionPlan, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store ``[R, T, H, D]`` each and return what attention reads.

        Returns:
            Views of keys and values, ``[slot_count, H, key_positions, D]`` each.
        """
        slots = slice(plan.first_slot, plan.first_slot + plan.slot_count)
        views = []
        for stored, new in ((self.keys[layer], keys), (self.values[layer], values)):
            stored[plan.slots[:, None], :, plan.positions] = new
            views.append(stored[slots, :, : plan.key_positions])
        return views[0], views[1]

    def release(self, slot: int, positions: int) -> None:
        """End the use of a slot; what is beyond ``RETAINED_BYTES`` of memory is offered now.

        Args:
            slot: Slot whose sequence has ended.
            positions: Number of positions that it wrote.
        """
        if positions <= KEPT_POSITIONS:
            return
        self._retained[slot] = max(positions, self._retained.get(slot, 0))
        beyond = sum(one - KEPT_POSITIONS for one in self._retained.values())
        if beyond * self.position_bytes > RETAINED_BYTES:
            self.free(slot, KEPT_POSITIONS, self._retained.pop(slot))

    def offer_retained(self) -> None:
        """Offer all memory but that of each slot's first ``KEPT_POSITIONS``; no slot is in use."""
        for slot, positions in self._retained.items():
            self.free(slot, KEPT_POSITIONS, positions)
        self._retained.clear()

    def compact(self, slot: int, layer: int, kept: Tensor) -> None:
        """Move the entries of a layer that stay to the front of a slot.

        Args:
            slot: Slot of the sequence.
            layer: Layer of the entries.
            kept: ``[H, B]`` places of the entries that stay, ascending, for each KV head.
        """
        index = kept.unsqueeze(-1).expand(-1, -1, self.keys.shape[-1])
        for stored in (self.keys, self.values):
            entries = stored[layer, slot]  # [H, C, D]
            entries[:, : kept.shape[1]] = entries.gather(1, index)

    def free(self, slot: int, first: int, last: int) -> None:
        """Offer the memory of places ``first`` to ``last - 1`` to the kernel, in whole pages.

        Only on a CPU; on other devices the slot keeps its memory.
        """
        if not self._memory[0].is_lazy:
            return
        layers, slots, heads, length, width = self.keys.shape
        for layer in range(layers):
            for head in range(heads):
                begin = ((layer * slots + slot) * heads + head) * length * width
                for memory in self._memory:
                    memory.offer(begin + first * width, begin + last * width)

    def entries(self, slot: int, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Return views ``[H, count, D]`` of the first keys and values of a slot in one layer."""
        return self.keys[layer, slot, :, :count], self.values[layer, slot, :, :count]

    def read_block(self, slot: int, layers: slice, begin: int, end: int) -> Tensor:
        """Return a copy ``[2, L, H, T, D]`` of the keys and values of positions in one slot."""
        block = (layers, slot, slice(None), slice(begin, end))
        return torch.stack([self.keys[block], self.values[block]])

    def write_block(self, slot: int, layers: slice, begin: int, block: Tensor) -> None:
        """Write a block that ``read_block`` returned into a slot, beginning at ``begin``."""
        target = (layers, slot, slice(None), slice(begin, begin + block.shape[3]))
        self.keys[target], self.values[target] = block[0], block[1]


class TransientKeyValues:
    """Keys and values of one forward pass over whole texts; nothing is stored."""

    def write(
        self,
        layer: int,  # noqa: ARG002 - part of the protocol
        plan: AttentionPlan,  # noqa: ARG002
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return ``[R, T, H, D]`` as attention reads it, ``[R, H, T, D]``."""
        return keys.transpose(1, 2), values.transpose(1, 2)


def _spread(masks: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return the masks ``[R, ...]`` of rows at their places among ``count`` slots."""
    spread = masks.new_zeros(count, *masks.shape[1:])
    spread[rows] = masks
    return spread


def position_bytes(backbone: Backbone) -> int:
    """Return the bytes of one position's keys and values in all layers."""
    return kv_token_bytes(backbone.model.config, backbone.model.lm_head.weight.element_size())


def kv_token_bytes(config: Any, value_bytes: int) -> int:
    """Return the bytes of a token's keys and values in all layers.

    Args:
        config: Configuration of transformers.
        value_bytes: Bytes of a key's value.
    """
    heads = config.num_hidden_layers * config.num_key_value_heads
    return int(2 * heads * head_dim(config) * value_bytes)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads by the angles of their positions (arXiv 2104.09864, half-split form).

    Args:
        x: ``[R, T, H, D]`` queries or keys.
        cos: ``[R, T, 1, D]`` cosines.
        sin: ``[R, T, 1, D]`` sines, negated in the lower half of D.
    """
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)
