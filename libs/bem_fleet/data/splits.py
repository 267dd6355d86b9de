"""Hash-based train, dev and held-out splits: adding an item never moves another one."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SPLIT_SHARES = {"train": 0.72, "dev": 0.08, "held_out": 0.20}


def assign_split(group: str, seed: int = 0) -> str:
    """Return the split of a group of items that must stay together, for example one passage.

    Args:
        group: Text that identifies the group.
        seed: Seed of the split.
    """
    draw = split_draw(group, seed)
    for name, share in SPLIT_SHARES.items():
        if draw < share:
            return name
        draw -= share
    return "held_out"


def split_draw(group: str, seed: int = 0) -> float:
    """Return the number in [0, 1) that places a group; the highest are held out.

    Args:
        group: Text that identifies the group.
        seed: Seed of the split.
    """
    return int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:12], 16) / 16**12


def passage_cluster(passage: str) -> str:
    """Return the name of the cluster of all items about one passage, 16 hexadecimal characters."""
    return hashlib.sha256(passage.encode()).hexdigest()[:16]


def round_robin(groups: Sequence[Sequence[T]]) -> list[T]:
    """Return the first item of each group, then the second of each, to the end of the longest."""
    longest = max((len(group) for group in groups), default=0)
    return [group[at] for at in range(longest) for group in groups if at < len(group)]
