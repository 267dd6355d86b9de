"""Fair batch queue: queries of several clients in turn, short ones first."""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from bem_fleet.guard.findings import Finding, ScoringQuery

LONG_CHARS = 1024
"""Text length above which a query is long; requests and parts of responses are seldom longer."""

SHARED_BATCH = 2
"""Most short queries of one client in a batch while there is another client."""

LINGER_S = 0.5
"""Time for which a client counts after its last query, in seconds: its next one is on its way."""

Entry = tuple[ScoringQuery, "asyncio.Future[Finding]"]
Queue = OrderedDict[Hashable, deque[Entry]]


def is_long(query: ScoringQuery) -> bool:
    """Return whether a query takes a scorer much longer than most."""
    return len(query.text) > LONG_CHARS


class BatchQueue:
    """Pending queries by client.

    A batch takes one query of each client in turn, and while there are several clients no more than
    two of each, so that a client with many pending queries delays the others by one small batch.
    Short queries come first, and one long query joins a batch at most: whoever sends long texts
    delays all others by one long text. Example: with a1, a2, a3 of client A and b1 of client B, a
    batch of up to 16 is a1, b1, a2.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._short: Queue = OrderedDict()
        self._long: Queue = OrderedDict()
        self._clock = clock
        self._seen: dict[Hashable, float] = {}

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
        self._seen[client] = self._clock()

    def take(self, limit: int, *, long: bool = True) -> list[Entry]:
        """Remove and return queries whose callers still wait.

        Args:
            limit: Most short queries.
            long: Whether a long query may follow them.
        """
        earliest = self._clock() - LINGER_S
        waiting = {*self._short, *self._long}
        self._seen = {
            client: at for client, at in self._seen.items() if at > earliest or client in waiting
        }
        batch = _take(self._short, limit, SHARED_BATCH if len(self._seen) > 1 else limit)
        return batch + _take(self._long, 1, 1) if long else batch

    def drain(self) -> Iterator[Entry]:
        """Remove and yield all queries whose callers still wait."""
        while batch := self.take(1):
            yield from batch


def _take(queue: Queue, limit: int, share: int) -> list[Entry]:
    batch: list[Entry] = []
    taken = Counter[Hashable]()
    while len(batch) < limit:
        # The front has had the fewest turns: if it has its share, all have.
        if not queue or taken[client := next(iter(queue))] >= share:
            break
        entries = queue.pop(client)
        entry = entries.popleft()
        if entries:
            queue[client] = entries  # to the back: the next client has its turn
        if not entry[1].done():
            batch.append(entry)
            taken[client] += 1
    return batch
