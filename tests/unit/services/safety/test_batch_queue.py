"""Fair batch queue."""

import asyncio

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.services.safety.batch_queue import LONG_CHARS, BatchQueue


def _put(queue: BatchQueue, client: str, *texts: str) -> list["asyncio.Future[Finding]"]:
    futures = []
    for text in texts:
        future: asyncio.Future[Finding] = asyncio.get_running_loop().create_future()
        queue.put(client, ScoringQuery(text, "response", frozenset()), future)
        futures.append(future)
    return futures


async def test_clients_take_turns_in_a_batch() -> None:
    """A client with many queries delays another one by at most one batch."""
    queue = BatchQueue()
    _put(queue, "a", "a1", "a2", "a3")
    _put(queue, "b", "b1")

    assert [query.text for query, _ in queue.take(3)] == ["a1", "b1", "a2"]
    assert [query.text for query, _ in queue.take(3)] == ["a3"]
    assert not queue


async def test_batches_are_small_while_there_are_several_clients() -> None:
    """A client waits for two texts of another one, and a client alone gets whole batches."""
    now = 0.0
    queue = BatchQueue(lambda: now)
    many = [f"a{number}" for number in range(9)]
    _put(queue, "a", *many)
    _put(queue, "b", "b1")

    assert [query.text for query, _ in queue.take(16)] == ["a0", "b1", "a1"]
    assert [query.text for query, _ in queue.take(16)] == ["a2", "a3"]  # b's next one may come
    now = 1.0
    assert [query.text for query, _ in queue.take(16)] == many[4:]


async def test_abandoned_queries_are_skipped() -> None:
    """A query whose caller has given up takes no room in a batch."""
    queue = BatchQueue()
    first, _ = _put(queue, "a", "a1", "a2")
    first.cancel()

    assert [query.text for query, _ in queue.take(1)] == ["a2"]


async def test_drain_empties_the_queue() -> None:
    """All waiting queries of all clients are returned."""
    queue = BatchQueue()
    _put(queue, "a", "a1", "a2")
    _put(queue, "b", "b1")

    assert {query.text for query, _ in queue.drain()} == {"a1", "a2", "b1"}
    assert not queue


async def test_long_texts_let_short_ones_pass() -> None:
    """Short queries come first, and a batch has one long query at most."""
    queue = BatchQueue()
    first, second = "1" * (LONG_CHARS + 1), "2" * (LONG_CHARS + 1)
    _put(queue, "a", first, second, "a1")
    _put(queue, "b", "b1")

    assert [query.text for query, _ in queue.take(8)] == ["a1", "b1", first]
    assert queue.take(8, long=False) == []
    assert queue
    assert [query.text for query, _ in queue.take(8)] == [second]


async def test_short_texts_never_starve_long_ones() -> None:
    """A full batch of short queries takes a long one too."""
    queue = BatchQueue()
    _put(queue, "a", "a1", "a2", "1" * (LONG_CHARS + 1))

    assert len(queue.take(1)) == 2
