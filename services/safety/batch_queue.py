"""Fair batch queue: queries of several clients, taken round-robin into one batch."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator

from bem_fleet.guard.findings import Finding, ScoringQuery

Entry = tuple[ScoringQuery, "asyncio.Future[Finding]"]


class BatchQueue:
    """Pending queries by client.

    A batch takes one query of each client in turn, so that a client with many pending queries
    delays the others by at most one batch. Example: with a1, a2, a3 of client A and b1 of client
    B, a batch of three is a1, b1, a2.
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[Hashable, deque[Entry]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether a query is pending."""
        return bool(self._clients)

    def put(self, client: Hashable, query: ScoringQuery, future: "asyncio.Future[Finding]") -> None:
        """Append a query to its client's queue.

        Args:
            client: Identity of the client.
            query: The query.
            future: Receives the finding; once it is done, the query is skipped.
        """
        self._clients.setdefault(client, deque()).append((query, future))

    def take(self, limit: int) -> list[Entry]:
        """Remove and return at most ``limit`` queries whose callers still wait."""
        batch: list[Entry] = []
        while self._clients and len(batch) < limit:
            client, entries = self._clients.popitem(last=False)
            entry = entries.popleft()
            if entries:
                self._clients[client] = entries  # to the back: the next client has its turn
            if not entry[1].done():
                batch.append(entry)
        return batch

    def drain(self) -> Iterator[Entry]:
        """Remove and yield all queries whose callers still wait."""
        while batch := self.take(1):
            yield from batch
