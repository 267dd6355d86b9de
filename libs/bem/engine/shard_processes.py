"""Start of the processes that hold a model together; the calling process becomes their leader."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bem.backbone import Backbone
from bem.errors import ShardGroupError
from bem.shard_group import ShardGroup
from bem.sharded_backbone import check_shards, load_shard


def start_shards(
    source: str, shards: int, *, device: str, cache: Path, threads: int = 0
) -> Backbone:
    """Start ``shards - 1`` processes on this machine and load a model into them and this one.

    The processes meet at a file and end with this one.

    Args:
        source: As ``bem.backbone.load_backbone`` takes it.
        shards: Number of processes, at least 2.
        device: ``cpu``, or ``cuda`` for one GPU a process from ``cuda:0`` on.
        cache: Folder of de-quantised and downloaded models.
        threads: Threads of each process; 0 divides the machine's processors.

    Returns:
        The first process's part, with the group.

    Raises:
        BackboneNotFoundError: There is no such model.
        ShardGroupError: A process ended, or there are fewer GPUs than processes.
        UnsupportedBackboneError: The model cannot be served exactly by so many processes.
    """
    check_shards(source, shards, cache)  # prepared once, and refused before anything is started
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.device_count() < shards:
        raise ShardGroupError(
            f"shards: {shards} processes need {shards} GPUs; this machine shows "
            f"{torch.cuda.device_count()}; lower SHARDS"
        )
    threads = threads or max(1, (os.cpu_count() or 1) // shards)
    torch.set_num_threads(threads)
    devices = [f"cuda:{rank}" if kind == "cuda" else device for rank in range(shards)]
    store = Path(tempfile.mkdtemp(prefix="bem-shards-")) / "store"
    followers = [
        _start(source, rank, devices, store=store, threads=threads, cache=cache)
        for rank in range(1, shards)
    ]
    try:
        group = ShardGroup(0, shards, store, torch.device(devices[0]))
        group.followers = followers
        return load_shard(source, group, cache)
    except RuntimeError as err:
        for process in followers:
            process.terminate()
            process.wait()
        raise ShardGroupError(
            f"shards: the {shards} processes did not meet: {err}; see the log above"
        ) from err


def _start(
    source: str, rank: int, devices: Sequence[str], *, store: Path, threads: int, cache: Path
) -> "subprocess.Popen[bytes]":
    options = {
        "rank": rank,
        "size": len(devices),
        "store": store,
        "device": devices[rank],
        "threads": threads,
        "cache": cache,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "bem.engine.shard_follower", *arguments, source]
    return subprocess.Popen(command)
