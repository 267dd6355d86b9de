"""Fair batch queue: queries of several clients in turn, short ones first."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator

from bem_fleet.guard.findings import Finding, ScoringQuery

LONG_CHARS = 1024
"""Text length above which a query is long; requests and parts of responses are seldom longer."""

Entry = tuple[ScoringQuery, "asyncio.Future[Finding]"]
Queue = OrderedDict[Hashable, deque[Entry]]


def is_long(query: ScoringQuery) -> bool:
    """Return whether a query takes a scorer much longer than most."""
    return len(query.text) > LONG_CHARS


class BatchQueue:
    """Pending queries by client.

    A batch takes one query of each client in turn, so that a client with many pending queries
    delays the others by at most one batch. Short queries come first, and one long query joins a
    batch at most: whoever sends long texts delays all others by one long text. Example: with a1,
    a2, a3 of client A and b1 of client B, a batch of three is a1, b1, a2.
    """

    def __init__(self) -> None:
        self._short: Queue = OrderedDict()
        self._long: Queue = OrderedDict()

    def __bool__(self) -> bool:
        """Whether a query is pending."""
        return bool(self._short or self._long)

    def put(self, client: Hashable, query: ScoringQuery, future: "asyncio.Future[Finding]") -> None:
        """Append a query to its client's queue.

        Args:
            client: Identity of the client.
            query: The query.
            future: Receives the finding; once it is done, the query is skipped.
        """
        queue = self._long if is_long(query) else self._short
        queue.setdefault(client, deque()).append((query, future))

    def take(self, limit: int, *, long: bool = True) -> list[Entry]:
        """Remove and return queries whose callers still wait.

        Args:
            limit: Most short queries.
            long: Whether a long query may follow them.
        """
        batch = _take(self._short, limit)
        return batch + _take(self._long, 1) if long else batch

    def drain(self) -> Iterator[Entry]:
        """Remove and yield all queries whose callers still wait."""
        while batch := self.take(1):
            yield from batch


def _take(queue: Queue, limit: int) -> list[Entry]:
    batch: list[Entry] = []
    while queue and len(batch) < limit:
        client, entries = queue.popitem(last=False)
        entry = entries.popleft()
        if entries:
            queue[client] = entries  # to the back: the next client has its turn
        if not entry[1].done():
            batch.append(entry)
    return batch
