"""Tests of the slot store."""

from typing import Any

import numpy as np
import pytest
from bem.errors import InvalidRequestError
from bem.memory.eviction import Eviction
from bem.memory.slot_store import SlotStore, slot_count
from bem.memory.write_batch import WRITE


def sentence(number: int) -> Any:
    """Return a sentence to write."""
    write = np.zeros((), WRITE)
    write["ids"][0] = number
    write["tokens"] = 1
    write["key"][number % 96] = 127
    return write[()]


def test_budget_gives_a_number_of_slots() -> None:
    """A session of 1 MiB has some 4,100 slots; a budget out of range is the caller's error."""
    assert 4_000 < slot_count(2**20) < 4_400
    with pytest.raises(InvalidRequestError, match="budget_bytes: 10 is out of range; the limits"):
        slot_count(10)


def test_full_store_evicts_and_keeps_its_size() -> None:
    """Writes beyond the capacity overwrite slots by the policy."""
    store = SlotStore(3, Eviction.FIFO)
    results = [store.write(sentence(n), 10) for n in range(1, 6)]

    assert [evicted for _, evicted in results] == [False, False, False, True, True]
    assert len(store) == 3
    assert store.slots["ids"][store.used(), 0].tolist() == [3, 4, 5]


def test_novelty_falls_for_a_sentence_like_a_late_one() -> None:
    """The key of a written sentence has novelty 0, another one 1."""
    store = SlotStore(3)
    store.write(sentence(1), 1)

    assert store.novelty(sentence(1)["key"]) == 0
    assert store.novelty(sentence(2)["key"]) == 1


def test_cleared_slots_are_zero_and_free() -> None:
    """Nothing of a cleared sentence is left, and its slot is used again."""
    store = SlotStore(2)
    store.write(sentence(1), 1)
    store.write(sentence(2), 1)
    store.clear(np.array([0]))

    assert not store.slots[0].tobytes().strip(b"\0")
    assert len(store) == 1
    assert store.write(sentence(3), 1) == (0, False)


def test_reads_are_counted_up_to_255() -> None:
    """A slot that is read often keeps a count that fits its byte."""
    store = SlotStore(1)
    store.write(sentence(1), 1)
    for _ in range(300):
        store.touch(np.array([0]))

    assert store.slots["reads"][0] == 255
