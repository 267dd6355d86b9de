"""Follower of an engine: computes its part of the model as ``bem.engine.shard_leader`` commands.

``python -m bem.engine.shard_follower`` is started by ``bem.engine.shard_processes``, and ends with
its leader.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bem.backbone import Backbone
from bem.engine.decoder import TorchLayers
from bem.engine.kv_cache import AttentionPlan, KVCache
from bem.engine.process_memory import release_weight_file
from bem.shard_group import Command, ShardGroup
from bem.sharded_backbone import load_shard


class ShardFollower:
    """Part of a model that obeys the leader of its group.

    Args:
        backbone: Part of the model.
        group: Processes that hold it together.
    """

    def __init__(self, backbone: Backbone, group: ShardGroup) -> None:
        self._backbone, self._group = backbone, group
        self._open(1, 1)
        release_weight_file(backbone.model)

    @torch.inference_mode()
    def run(self) -> None:
        """Obey until the leader says ``STOP``.

        Raises:
            RuntimeError: The leader is gone.
        """
        answers: dict[Command, Callable[..., None]] = {
            Command.OPEN: self._open,
            Command.RUN: self._run_layers,
            Command.READ: self._read,
            Command.WRITE: self._write,
            Command.REFERENCE: self._run_reference,
            Command.BFLOAT16: self._convert,
        }
        while (received := self._group.receive())[0] is not Command.STOP:
            command, arguments = received
            answers[command](*arguments)

    def _open(self, slots: int, context_tokens: int, *_: int) -> None:
        self._cache = KVCache(self._backbone, slots=slots, context_tokens=context_tokens)
        self._layers = TorchLayers(self._backbone, self._cache)

    def _run_layers(
        self, first: int, last: int, rows: int, tokens: int, transient: int, *_: int
    ) -> None:
        plan = self._plan(rows, tokens, transient)
        hidden = self._group.share(self._states(rows, tokens))
        self._layers.run(first, last, hidden, plan, transient=bool(transient))

    def _plan(self, rows: int, tokens: int, transient: int) -> AttentionPlan:
        if transient:
            return self._cache.plan_full_texts(rows, tokens)
        places = self._group.share_numbers([0] * (2 * rows))
        return self._cache.plan(places[:rows], places[rows:], tokens)

    def _read(self, slot: int, first: int, last: int, begin: int, end: int, *_: int) -> None:
        self._group.gather(self._cache.read_block(slot, slice(first, last), begin, end), 2)

    def _write(self, slot: int, first: int, last: int, begin: int, end: int, *_: int) -> None:
        layers = slice(first, last)
        own = torch.empty_like(self._cache.read_block(slot, layers, begin, end))
        self._cache.write_block(slot, layers, begin, self._group.scatter(own, None, 2))

    def _run_reference(self, rows: int, tokens: int, *_: int) -> None:
        embeddings = self._group.share(self._states(rows, tokens))
        self._backbone.model.model(inputs_embeds=embeddings)

    def _convert(self, *_: int) -> None:
        self._backbone.model.to(torch.bfloat16)

    def _states(self, rows: int, tokens: int) -> Tensor:
        like = self._backbone.model.lm_head.weight
        return like.new_empty(rows, tokens, self._backbone.model.config.hidden_size)


def main() -> int:
    """Load one part and obey; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("source")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    group = ShardGroup(options.rank, options.size, options.store, torch.device(options.device))
    follower = ShardFollower(load_shard(options.source, group, options.cache), group)
    try:
        follower.run()
    except RuntimeError as err:  # gloo's only error: a closed connection, or no answer in time
        sys.stderr.write(f"shard {options.rank}: the leader is gone: {err}\n")
        return 1
    group.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
