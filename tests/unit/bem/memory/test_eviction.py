"""Tests of the eviction policies."""

import numpy as np
import pytest
from bem.memory.eviction import Eviction, slot_worth, victim
from bem.memory.slot_format import SLOT, Slots


@pytest.fixture
def slots() -> Slots:
    """Four slots: the oldest, one read lately, a salient one, and a dull one."""
    made = np.zeros(4, SLOT)
    made["order"] = [1, 2, 3, 4]
    made["touched"] = [9, 2, 3, 4]
    made["salience"] = [100, 90, 200, 10]
    return made


def test_each_policy_takes_its_slot(slots: Slots) -> None:
    """FIFO takes the oldest, LRU the least lately used, learned the least salient."""
    chosen = {
        policy: victim(slots, 10, 120, policy, 0)
        for policy in (Eviction.FIFO, Eviction.LRU, Eviction.LEARNED)
    }

    assert chosen == {Eviction.FIFO: 0, Eviction.LRU: 1, Eviction.LEARNED: 3}


def test_learned_policy_drops_the_new_sentence_if_it_is_the_dullest(slots: Slots) -> None:
    """A sentence below all slots is not kept; reads and youth raise a slot's worth."""
    assert victim(slots, 10, 1, Eviction.LEARNED, 0) is None
    slots["reads"] = [0, 0, 0, 50]
    assert victim(slots, 10, 120, Eviction.LEARNED, 0) != 3
    assert (slot_worth(slots, 10) < slot_worth(slots, 5)).all()


def test_reservoir_keeps_every_sentence_with_one_probability() -> None:
    """After 2,000 writes into 50 slots each fifth of the stream has a fifth of the slots."""
    slots = np.zeros(50, SLOT)
    slots["order"] = np.arange(1, 51)
    counts = np.zeros(5)
    for seed in range(20):
        kept = slots["order"].copy()
        for order in range(51, 2001):
            index = victim(slots, order, 0, Eviction.RESERVOIR, seed)
            if index is not None:
                kept[index] = order
        counts += np.bincount((kept - 1) // 400, minlength=5)

    assert np.abs(counts / counts.sum() - 0.2).max() < 0.05
