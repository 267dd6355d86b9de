"""Process group of a model that several processes hold: commands, sums and exchanges of tensors.

The first process leads: it sends each command before the tensors that belong to it, and the others
follow. Commands are integers, so that no process unpickles what another sends. A group whose leader
failed between a command and its last tensor is out of step and refuses all further work.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bem.errors import ShardGroupError

_FIELDS = 8
_ANSWER_S = 300
_IDLE = timedelta(days=365)


class Command(IntEnum):
    """What the leader asks the other processes to do, with its arguments."""

    STOP = auto()
    """End."""
    OPEN = auto()
    """Allocate a KV cache: slots, positions of each."""
    RUN = auto()
    """Run layers: first, behind the last, rows, tokens, whether nothing is stored; then slots and
    first places of the rows, and the input of the layers."""
    READ = auto()
    """Send keys and values: slot, first layer, behind the last, first position, behind the last."""
    WRITE = auto()
    """Store keys and values; arguments as of ``READ``."""
    REFERENCE = auto()
    """Run transformers' own layers: rows, tokens; then the embeddings."""
    BFLOAT16 = auto()
    """Convert the weights to bfloat16."""


class ShardGroup:
    """Processes that hold one model together.

    Args:
        rank: Number of this process, from 0, the leader.
        size: Number of processes.
        store: File that does not exist yet, at which the processes meet.
        device: Device of this process's part.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        device: Device of this process's part.
        followers: Processes that this one started; ``stop`` waits for their end.
    """

    def __init__(self, rank: int, size: int, store: Path, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._is_broken = self._is_stopped = False
        self.followers: list[subprocess.Popen[bytes]] = []
        # One machine: without it gloo listens on the address of the host's name.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=_ANSWER_S),
        )
        # Followers of an idle engine wait for its next command without end.
        self._commands: Any = dist.new_group(backend="gloo", timeout=_IDLE)

    def send(self, command: Command, *arguments: int) -> None:
        """Send a command from the leader; the caller's next exchanges are part of it.

        Raises:
            ShardGroupError: The group is out of step or stopped.
        """
        if self._is_broken or self._is_stopped:
            raise ShardGroupError(
                "shards: the processes that hold the model are out of step; restart the service"
            )
        fields = torch.zeros(_FIELDS, dtype=torch.int64)
        fields[: 1 + len(arguments)] = torch.tensor([command, *arguments])
        with self.exchange():
            dist.broadcast(fields, 0, group=self._commands)

    def receive(self) -> tuple[Command, list[int]]:
        """Return the leader's next command and its arguments; waits without end."""
        fields = torch.zeros(_FIELDS, dtype=torch.int64)
        dist.broadcast(fields, 0, group=self._commands)
        command, *arguments = fields.tolist()
        return Command(command), arguments

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Refuse all further work if what is within the context fails in the leader."""
        try:
            yield
        except BaseException:
            self._is_broken = True
            raise

    def share(self, values: Tensor) -> Tensor:
        """Overwrite a tensor of each process by the leader's; return it."""
        dist.broadcast(values, 0)
        return values

    def share_numbers(self, numbers: Sequence[int]) -> list[int]:
        """Return the leader's numbers; those of the others give their count only."""
        found: list[int] = self.share(torch.tensor(numbers, device=self.device)).tolist()
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; overwrites it."""
        values = values.contiguous()
        dist.all_reduce(values)
        return values

    def gather(self, own: Tensor, dim: int) -> Tensor:
        """Return the tensors of all processes side by side; ``own`` in all but the leader."""
        own = own.contiguous()
        if self.rank:
            dist.gather(own, None, 0)
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.gather(own, parts, 0)
        return torch.cat(parts, dim)

    def scatter(self, own: Tensor, whole: Tensor | None, dim: int) -> Tensor:
        """Overwrite ``own`` by this process's part of the leader's ``whole``; return it."""
        parts = None
        if whole is not None:
            parts = [part.contiguous() for part in whole.chunk(self.size, dim)]
        dist.scatter(own, parts, 0)
        return own

    def stop(self) -> None:
        """End the other processes and leave the group; further calls do nothing."""
        if self._is_stopped:
            return
        if self.rank == 0 and not self._is_broken:
            self.send(Command.STOP)
        self._is_stopped = True
        for process in self.followers:
            if self._is_broken:
                process.terminate()
            process.wait(_ANSWER_S)
        dist.destroy_process_group()
