"""Train, dev and held-out: chosen by a hash, so that a new item never moves an old one."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SPLIT_SHARES = {"train": 0.72, "dev": 0.08, "held_out": 0.20}


def assign_split(group: str, seed: int = 0) -> str:
    """Return the split of a group of items that belong together, such as all of one passage."""
    draw = int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:12], 16) / 16**12
    for name, share in SPLIT_SHARES.items():
        if draw < share:
            return name
        draw -= share
    return "held_out"


def round_robin(groups: Sequence[Sequence[T]]) -> list[T]:
    """Return the first of each group, then the second of each, until the longest is through."""
    longest = max((len(group) for group in groups), default=0)
    return [group[at] for at in range(longest) for group in groups if at < len(group)]
