"""Layers and KV cache of an engine whose model several processes hold together.

The engine runs in the first process, which holds embedding, norms, output matrix and its part of
the layers. Each pass through layers, and each copy of keys and values, is sent to the others first;
``bem.engine.shard_follower`` answers there. Nothing else of the engine knows of them.
"""

from typing import Any

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.engine.kv_cache import AttentionPlan, KVCache
from bem.errors import InvalidSettingError
from bem.shard_group import Command, ShardGroup


class LeadingLayers:
    """Decoder layers of which this process holds a part.

    Args:
        layers: The part of this process.
        group: Processes that hold the others.
    """

    def __init__(self, layers: Any, group: ShardGroup) -> None:
        self._layers, self._group = layers, group

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._layers)

    @property
    def linears(self) -> Any:
        """Frozen matrices of this process's part."""
        return self._layers.linears

    def run(
        self, first: int, last: int, hidden: Tensor, plan: AttentionPlan, *, transient: bool
    ) -> Tensor:
        """Map ``hidden [R, T, F]`` through layers ``first`` to ``last - 1`` of all processes."""
        if first >= last:
            return hidden
        rows, tokens, _ = hidden.shape
        self._group.send(Command.RUN, first, last, rows, tokens, transient)
        with self._group.exchange():
            if not transient:
                self._group.share_numbers([*plan.slots.tolist(), *plan.positions[:, 0].tolist()])
            self._group.share(hidden.contiguous())
            output: Tensor = self._layers.run(first, last, hidden, plan, transient=transient)
        return output

    def queries(self, _index: int, _hidden: Tensor, _plan: AttentionPlan) -> Tensor:
        """Refuse: the queries of other processes are not collected.

        Raises:
            InvalidSettingError: Several processes hold the model.
        """
        raise InvalidSettingError(
            "shards: queries of a model in several processes are not read; set SHARDS to 1"
        )


class LeadingCache(KVCache):
    """KV cache with this process's heads; blocks have the heads of all processes.

    Args:
        backbone: Part of the model.
        slots: Number of sequences that run at once.
        context_tokens: Positions of each slot.
        group: Processes that hold the other parts.
    """

    def __init__(
        self, backbone: Backbone, *, slots: int, context_tokens: int, group: ShardGroup
    ) -> None:
        super().__init__(backbone, slots=slots, context_tokens=context_tokens)
        self._group = group
        group.send(Command.OPEN, slots, context_tokens)

    def read_block(self, slot: int, layers: slice, begin: int, end: int) -> Tensor:
        """Return a copy ``[2, L, H, T, D]`` of the keys and values of all processes."""
        first, last, _ = layers.indices(len(self.keys))
        if first >= last:
            return super().read_block(slot, layers, begin, end)
        self._group.send(Command.READ, slot, first, last, begin, end)
        with self._group.exchange():
            return self._group.gather(super().read_block(slot, layers, begin, end), 2)

    def write_block(self, slot: int, layers: slice, begin: int, block: Tensor) -> None:
        """Write a block that ``read_block`` returned into a slot, beginning at ``begin``."""
        first, last, _ = layers.indices(len(self.keys))
        if first >= last:
            return
        end = begin + block.shape[3]
        self._group.send(Command.WRITE, slot, first, last, begin, end)
        with self._group.exchange():
            own = torch.empty_like(block[:, :, : self.keys.shape[2]])
            own = self._group.scatter(own.contiguous(), block, 2)
        super().write_block(slot, layers, begin, own)


def open_cache(backbone: Backbone, *, slots: int, context_tokens: int) -> KVCache:
    """Return the KV cache of an engine, in all processes that hold its model."""
    if backbone.shards is None:
        return KVCache(backbone, slots=slots, context_tokens=context_tokens)
    return LeadingCache(backbone, slots=slots, context_tokens=context_tokens, group=backbone.shards)


def reference_logits(backbone: Backbone, ids: Tensor) -> Tensor:
    """Return transformers' own logits ``[R, T, V]`` of ``ids [R, T]``."""
    group = backbone.shards
    if group is None:
        logits: Tensor = backbone.model(ids).logits
        return logits
    embeddings = backbone.model.get_input_embeddings()(ids).contiguous()
    group.send(Command.REFERENCE, *ids.shape)
    with group.exchange():
        summed: Tensor = backbone.model(inputs_embeds=group.share(embeddings)).logits
        return summed


def convert_shards(backbone: Backbone) -> None:
    """Convert the weights of all processes to bfloat16."""
    if backbone.shards is not None:
        backbone.shards.send(Command.BFLOAT16)
    backbone.model.to(torch.bfloat16)


def check_whole(backbone: Backbone, feature: str) -> None:
    """Refuse what is computed in one process only.

    Raises:
        InvalidSettingError: Several processes hold the model.
    """
    if backbone.shards is not None:
        raise InvalidSettingError(
            f"shards: {feature} not supported for a model in {backbone.shards.size} processes; "
            "leave it out, or set SHARDS to 1"
        )
