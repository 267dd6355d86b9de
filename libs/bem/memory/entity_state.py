"""Entity state: who or what was written about last, in a delta-rule memory of 32 KB.

A key is a pseudo-random unit vector of an entity's hash, another one in each head; a value is
the signature of the slot that mentions the entity. A later mention replaces an earlier one, so that
a read points at the latest slot of an entity; its signature is compared with those of the slots.
The state holds no text; it is an index and an order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bem.memory import delta_state

HEADS, WIDTH = 4, 64
STATE_BYTES = HEADS * WIDTH * WIDTH * 2
"""Bytes of the state in float16."""

ENTITIES_PER_SLOT = 4
"""Entities of a slot that are written to the state."""

_KEY_SEED, _VALUE_SEED = 0x9E3779B9, 0x85EBCA6B


def entity_keys(hashes: NDArray[np.integer]) -> Tensor:
    """Return the unit keys ``[4, N, 64]`` of word hashes ``[N]``."""
    heads = [_signs(hashes, _KEY_SEED + head) for head in range(HEADS)]
    return torch.from_numpy(np.stack(heads))


def slot_signatures(orders: NDArray[np.integer]) -> Tensor:
    """Return the unit signatures ``[N, 64]`` of slots by their write numbers ``[N]``."""
    return torch.from_numpy(_signs(orders, _VALUE_SEED))


class EntityState:
    """State of one session.

    Args:
        decay: Decay of each head, ``[4]`` in (0, 1].
        state: ``[4, 64, 64]``; zeros at the beginning.
    """

    def __init__(self, decay: Tensor, state: Tensor | None = None) -> None:
        self._decay = decay.float()
        self.state = torch.zeros(HEADS, WIDTH, WIDTH) if state is None else state.float()

    def write(self, entities: Sequence[tuple[int, int, float]]) -> None:
        """Write mentions in order.

        Args:
            entities: Word hash, write number of the slot, and strength in [0, 1] of each mention.
        """
        if not entities:
            return
        hashes = np.array([one[0] for one in entities], np.int64)
        orders = np.array([one[1] for one in entities], np.int64)
        strengths = torch.tensor([one[2] for one in entities]).expand(HEADS, -1)
        values = slot_signatures(orders).expand(HEADS, -1, -1)
        decays = self._decay[:, None].expand(-1, len(entities))
        # A write that exceeded the decay would turn the sign of what is stored.
        writes = torch.minimum(strengths, decays)
        self.state = delta_state.scan(self.state, entity_keys(hashes), values, decays, writes)

    def scores(
        self, hashes: NDArray[np.integer], orders: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Return how strongly the state points from each entity to each slot.

        Args:
            hashes: Word hashes of the entities ``[E]``.
            orders: Write numbers of the slots ``[N]``.

        Returns:
            ``[E, N]``; about the strength of the write for the latest slot of the entity, and
            about 0 for all others.
        """
        if not len(hashes) or not len(orders):
            return np.zeros((len(hashes), len(orders)), np.float32)
        returned = delta_state.read(self.state, entity_keys(hashes)).mean(0)  # [E, 64]
        scores: NDArray[np.float32] = (returned @ slot_signatures(orders).T).numpy()
        return scores

    def rounded(self) -> "EntityState":
        """Return the state as a snapshot holds it, in float16."""
        return EntityState(self._decay, self.state.half().float())


def _signs(numbers: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
    """Return a vector of signs over 8, so of length 1, for each number: ``[N, 64]``."""
    # SplitMix64 (Steele et al. 2014): each bit of the mixed number is a sign.
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    bits = (mixed[:, None] >> np.arange(WIDTH, dtype=np.uint64)) & np.uint64(1)
    return (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(WIDTH))
