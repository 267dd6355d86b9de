"""Slot store: the slots of one session, of a constant number of bytes."""

import numpy as np
from numpy.typing import NDArray

from bem.errors import InvalidRequestError
from bem.memory.entity_state import STATE_BYTES
from bem.memory.eviction import Eviction, victim
from bem.memory.slot_format import KEY_WIDTH, SLOT, SLOT_BYTES, Slots

NOVELTY_KEYS = 64
"""Latest keys with which a new sentence is compared."""

FIXED_BYTES = STATE_BYTES + NOVELTY_KEYS * KEY_WIDTH + 16 * 1024
"""Bytes of a session beside its slots: state, latest keys, and names of documents."""

MIN_BUDGET = 64 * 1024
MAX_BUDGET = 64 * 1024 * 1024
DEFAULT_BUDGET = 1024 * 1024
"""Bytes of a session."""

_MAX_COUNTER = 255


def slot_count(budget_bytes: int) -> int:
    """Return how many slots fit a session of ``budget_bytes``.

    Raises:
        InvalidRequestError: The budget is out of range.
    """
    if not MIN_BUDGET <= budget_bytes <= MAX_BUDGET:
        raise InvalidRequestError(
            "budget_bytes",
            f"{budget_bytes} is out of range; the limits are {MIN_BUDGET} and {MAX_BUDGET}",
        )
    return (budget_bytes - FIXED_BYTES) // SLOT_BYTES


class SlotStore:
    """Slots with their eviction policy.

    Args:
        capacity: Number of slots.
        policy: Eviction policy.
        seed: Seed of the reservoir's choices.

    Attributes:
        slots: All slots ``[capacity]`` of type ``SLOT``; those with order 0 are free.
        order: Number of the last write, kept or not.
        recent: Latest keys ``[64, 96]`` in 8 bits, of kept and dropped sentences.
    """

    def __init__(self, capacity: int, policy: Eviction = Eviction.LEARNED, seed: int = 0) -> None:
        self.slots: Slots = np.zeros(capacity, SLOT)
        self.policy, self.seed = policy, seed
        self.order = 0
        self.recent = np.zeros((NOVELTY_KEYS, KEY_WIDTH), np.int8)
        self._free = list(range(capacity - 1, -1, -1))

    def __len__(self) -> int:
        """Number of slots in use."""
        return len(self.slots) - len(self._free)

    def novelty(self, key: NDArray[np.int8]) -> float:
        """Return 1 minus the largest cosine of an 8-bit key to the latest keys, in [0, 1]."""
        products = self.recent.astype(np.int32) @ key.astype(np.int32)
        return min(1.0, max(0.0, 1.0 - int(products.max()) / 127.0**2))

    def write(self, write: np.void, salience: int) -> tuple[int | None, bool]:
        """Offer a sentence to the memory.

        Args:
            write: Sentence of type ``WRITE``.
            salience: Salience of the sentence in 255ths.

        Returns:
            Index of its slot, None if it is not kept; and whether another sentence was evicted.
        """
        self.order += 1
        self.recent[self.order % NOVELTY_KEYS] = write["key"]
        evicts = not self._free
        if self._free:
            index: int | None = self._free.pop()
        else:
            index = victim(self.slots, self.order, salience, self.policy, self.seed)
        if index is None:
            return None, False
        slot = self.slots[index]
        for name in ("ids", "key", "words", "begin", "tokens", "entities"):
            slot[name] = write[name]
        slot["order"] = slot["touched"] = self.order
        slot["salience"], slot["reads"] = salience, 0
        return index, evicts

    def used(self) -> NDArray[np.intp]:
        """Return the indices of the slots in use, in the order of the text."""
        indices = np.flatnonzero(self.slots["order"])
        return indices[np.argsort(self.slots["order"][indices], kind="stable")]

    def touch(self, indices: NDArray[np.integer]) -> None:
        """Record that slots were read, for the eviction policies."""
        reads = self.slots["reads"][indices].astype(np.int64) + 1
        self.slots["reads"][indices] = np.minimum(reads, _MAX_COUNTER)
        self.slots["touched"][indices] = self.order

    def clear(self, indices: NDArray[np.integer]) -> None:
        """Overwrite slots with zeros; they are free."""
        self.slots[indices] = np.zeros((), SLOT)
        self.refresh()

    def refresh(self) -> None:
        """Find the free slots again after ``slots`` was replaced."""
        free = np.flatnonzero(self.slots["order"] == 0)
        self._free = free[::-1].tolist()
