"""Eviction policies: which slot a new sentence takes when the memory is full."""

import hashlib
from enum import StrEnum

import numpy as np

from bem.memory.slot_format import Slots

AGE_SCALE = 16.0
"""Age at which a salience counts ``1/e``, in capacities: one capacity is as many writes as there
are slots. Salience decides, and age breaks ties between equals."""


class Eviction(StrEnum):
    """Policy of a full memory."""

    LEARNED = "learned"
    """The smallest salience x exp(-age) x (1 + reads)."""
    FIFO = "fifo"
    """The oldest slot."""
    LRU = "lru"
    """The slot that was written or read longest ago."""
    RESERVOIR = "reservoir"
    """A random slot or the new sentence, so that all sentences are kept with one probability
    (Vitter 1985, algorithm R)."""


def victim(slots: Slots, order: int, salience: int, policy: Eviction, seed: int) -> int | None:
    """Return the index of the slot to overwrite; None if the new sentence is not kept.

    The choice depends on the arguments alone, so that a replayed session makes it again.

    Args:
        slots: All slots, none of which is free.
        order: Number of the write, from 1.
        salience: Salience of the new sentence in 255ths.
        policy: Eviction policy.
        seed: Seed of random choices.
    """
    if policy is Eviction.FIFO:
        return int(slots["order"].argmin())
    if policy is Eviction.LRU:
        return int(slots["touched"].argmin())
    if policy is Eviction.RESERVOIR:
        drawn = _draw(seed, order) % order
        return drawn if drawn < len(slots) else None
    worth = slot_worth(slots, order)
    lowest = int(worth.argmin())
    return None if worth[lowest] > salience else lowest


def slot_worth(slots: Slots, order: int) -> np.ndarray:
    """Return what each slot is worth at a write number, in 255ths of a new sentence's salience."""
    ages = (order - slots["order"].astype(np.float32)) / (AGE_SCALE * len(slots))
    worth: np.ndarray = slots["salience"] * np.exp(-ages) * (1.0 + slots["reads"])
    return worth


def _draw(seed: int, order: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{order}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
