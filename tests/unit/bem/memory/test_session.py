"""Tests of a session: constant bytes, documents, forgetting, replay, ablations."""

from dataclasses import replace

import numpy as np
import pytest
from bem.errors import InvalidRequestError
from bem.memory import Eviction, Gate
from bem.memory.session import MAX_DOCUMENTS
from bem.memory.write_batch import WriteBatch

from tests.unit.bem.memory.sessions import (
    MIN_CONFIG,
    answers,
    encoder,
    haystack,
    ingest,
    session,
    texts,
)


def test_bytes_are_constant_and_salient_sentences_stay() -> None:
    """A text of many times the capacity leaves the size as it is, and facts outlive filler."""
    memory = session(MIN_CONFIG)
    capacity = len(memory.store.slots)
    ingest(memory, "The code of Rina is 4711.\n" + haystack(20 * capacity))

    assert memory.counts.written == 20 * capacity + 1
    assert memory.counts.evicted + memory.counts.dropped + capacity == memory.counts.written
    assert len(memory.store) == capacity
    assert memory.store.slots.nbytes < memory.size_bytes
    assert "The code of Rina is 4711.\n" in texts(memory)


@pytest.mark.parametrize("eviction", [Eviction.FIFO, Eviction.LRU])
def test_other_policies_lose_the_old_fact(eviction: Eviction) -> None:
    """First in, first out forgets what the learned policy keeps."""
    memory = session(replace(MIN_CONFIG, eviction=eviction))
    ingest(memory, "The code of Rina is 4711.\n" + haystack(400))

    assert "The code of Rina is 4711.\n" not in texts(memory)


def test_gates_give_their_saliences() -> None:
    """Without a gate all are equal; a random one repeats itself; novelty ignores content."""
    saliences = {}
    for gate in Gate:
        memories = [session(replace(MIN_CONFIG, gate=gate)) for _ in range(2)]
        for memory in memories:
            ingest(memory, "Ada has 17 keys.\nthe day was long.\nthe day was long.\n")
        first, second = (one.store.slots["salience"][one.store.used()] for one in memories)
        assert np.array_equal(first, second)
        saliences[gate] = first.tolist()

    assert len(set(saliences[Gate.NONE])) == 1
    assert saliences[Gate.NOVELTY][2] == 0
    assert saliences[Gate.LEARNED][0] > saliences[Gate.LEARNED][1]
    assert len(set(saliences[Gate.RANDOM])) == 3


def test_replayed_batches_give_the_same_session() -> None:
    """Batches that went through bytes make the session that wrote them, bit by bit."""
    memory, replayed = session(MIN_CONFIG), session(MIN_CONFIG)
    text = haystack(90) + "The code of Rina is 4711.\n"
    for at in range(0, len(text), 333):
        batch = encoder().batch(memory.cursor, text[at : at + 333], "b", ends=False)
        memory.apply(batch)
        replayed.apply(WriteBatch.from_bytes(batch.to_bytes()))

    assert memory.store.slots.tobytes() == replayed.store.slots.tobytes()
    assert memory.state.state.equal(replayed.state.state)
    assert (memory.documents, memory.cursor) == (replayed.documents, replayed.cursor)


def test_documents_have_their_offsets() -> None:
    """Each document knows its part of the session's text; a new name ends the open one."""
    memory = session()
    memory.apply(encoder().batch(memory.cursor, "First one. Open", "a", ends=False))
    ingest(memory, "Second one.", "b")

    assert [(d.name, d.begin, d.end, d.complete) for d in memory.documents] == [
        ("a", 0, 15, True),
        ("b", 15, 26, True),
    ]
    found = memory.document_at(16)
    assert found is not None
    assert found.name == "b"
    assert memory.document_at(99) is None


def test_forgetting_a_document_removes_it_from_slots_and_state() -> None:
    """After forgetting, the session is as if the document had not been read."""
    memory, other = session(), session()
    ingest(memory, "The code of Rina is 4711.\n", "secret")
    for one in (memory, other):
        ingest(one, "Ada went home.\n", "kept")
    removed = memory.forget("secret")

    assert removed == 1
    assert answers(memory, "What is the code of Rina?") == ["Ada went home.\n"]
    assert [one.name for one in memory.documents] == ["kept"]
    assert b"4711" not in memory.store.slots.tobytes()
    assert not memory.store.recent.any()
    assert memory.forget() == 1
    assert not memory.state.state.any()


def test_names_of_documents_are_checked() -> None:
    """Empty, long, used and too many names are the caller's errors."""
    memory = session()
    ingest(memory, "One.", "book")
    for name, problem in (("", "has 0 bytes"), ("x" * 121, "121 bytes"), ("book", "is complete")):
        with pytest.raises(InvalidRequestError, match=problem):
            memory.check_document(name)
    with pytest.raises(InvalidRequestError, match="'away' is not in this session"):
        memory.forget("away")
    for number in range(MAX_DOCUMENTS - 1):
        ingest(memory, "One.", f"book {number}")
    with pytest.raises(InvalidRequestError, match="64 documents, which is the limit"):
        memory.check_document("one more")


def test_session_text_has_a_largest_length() -> None:
    """An offset that does not fit a slot is refused before anything is written."""
    memory = session()
    batch = replace(encoder().batch(memory.cursor, "One.", "b", ends=True), position=2**32)
    with pytest.raises(InvalidRequestError, match="4294967295 is the limit"):
        memory.apply(batch)

    assert not memory.documents
