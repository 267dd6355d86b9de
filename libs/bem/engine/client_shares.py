"""Client shares: rows, slots and queue places by client, so that one client's work delays it only.

Requests name the client that they come from. As long as one client has requests, nothing is
divided. Otherwise each has the same share, however many requests it sends and however long they
are:

- A free slot goes to the client with the fewest running requests; of one client's, the oldest is
  first. The last slots, and as many places in the queue, are for clients that have none yet.
- A decode step computes as many rows of each client as the one with the fewest requests has, in
  turns. Further rows join as long as the step takes at most a quarter longer than that client's
  rows alone, by the times of past steps: on a GPU that is all of them, on a CPU few or none.
- A client counts for a second after its last request: one that asks again and again meets short
  steps, and need not wait for the end of a long one each time.

Example: a client streams 16 answers and another asks for a short one. Steps of 17 rows would take
six times as long as a step of one row, and so would the short answer. Instead a step has one row of
each client and, where it hardly matters, a few more; the 16 streams take turns in them.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from bem.engine.api import RequestHandle
from bem.engine.sequence import Sequence as Running

# A step with more rows than equal shares may take this many times as long as one share alone.
STRETCH = 1.25
# A client without a request counts for this long, in seconds.
LINGER_S = 1.0
# Weight of the last step in the mean of its size.
_NEWEST = 0.2


class StepTimes:
    """Times of decode steps by number of rows, and a straight line through them."""

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """Record the time of one step.

        Args:
            rows: Rows of the step, at least 1.
            seconds: Time that it took.
        """
        size = rows.bit_length()  # 1, 2 to 3, 4 to 7 and so on: few, so that each is recent
        mean_rows, mean = self._means.get(size, (float(rows), seconds))
        self._means[size] = (
            mean_rows + _NEWEST * (rows - mean_rows),
            mean + _NEWEST * (seconds - mean),
        )

    def most_rows(self, share: int, most: int) -> int:
        """Return how many rows fit a step that takes at most ``STRETCH`` times as long as a share.

        Args:
            share: Rows of a share.
            most: Rows that the step may have at most.
        """
        fixed, per_row = self._line()
        if per_row <= 0:
            return most
        limit = STRETCH * (fixed + per_row * share)
        return min(most, int((limit - fixed) / per_row + 1e-6))

    def _line(self) -> tuple[float, float]:
        """Return the time of a step without rows and that of each row; neither is negative.

        Steps of one size say nothing about the slope: then a row is taken to cost its full share.
        """
        points = self._means.values()
        if len(points) < 2:
            return 0.0, 1.0
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        slope = max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)
        fixed = mean_y - slope * mean_x
        return (fixed, slope) if fixed > 0 else (0.0, mean_y / mean_x)


class ClientShares:
    """Divides slots, rows and places in the queue among clients.

    Args:
        guests: Slots, and places in the queue, for clients that have none yet.
        clock: Monotonic clock in seconds.

    Attributes:
        times: Times of past decode steps.
    """

    def __init__(self, guests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.times = StepTimes()
        self._guests, self._clock = guests, clock
        self._seen: dict[str, float] = {}
        self._turn = 0

    def may_wait(self, client: str, waiting: Sequence[RequestHandle], limit: int) -> bool:
        """Return whether a client's request may join the queue.

        Args:
            client: Name of the client.
            waiting: Requests in the queue.
            limit: Places for all clients; those for guests come on top.
        """
        if len(waiting) < limit:
            return True
        is_guest = all(one.request.client != client for one in waiting)
        return is_guest and len(waiting) < limit + self._guests

    def next_waiting(
        self, waiting: Iterable[RequestHandle], running: Sequence[Running], free_slots: int
    ) -> RequestHandle | None:
        """Return the request that gets the next slot; None if there is no slot for it.

        Args:
            waiting: Requests in the queue, in the order of their arrival.
            running: Requests with a slot.
            free_slots: Free slots, those for guests included.
        """
        held = Counter(one.handle.request.client for one in running)
        first = min(waiting, key=lambda one: held[one.request.client], default=None)
        if first is None or not free_slots:
            return None
        if free_slots <= self._guests and held[first.request.client]:
            return None
        return first

    def rows(self, ready: Sequence[Running], running: Sequence[Running]) -> list[Running]:
        """Return the sequences that the next decode step computes.

        Args:
            ready: Sequences that could be computed.
            running: All sequences with a slot: a client whose prompt is still read has a share too.
        """
        present = Counter(one.handle.request.client for one in running)
        now = self._clock()
        recent = {client: at for client, at in self._seen.items() if now - at < LINGER_S}
        self._seen = recent | dict.fromkeys(present, now)
        if len(self._seen) > 1:
            # One that lingers may come back with a single request.
            ready = self._shared(ready, min(present[client] or 1 for client in self._seen))
        self._turn += 1
        for one in ready:
            one.decoded_in = self._turn
        return list(ready)

    def _shared(self, ready: Sequence[Running], share: int) -> list[Running]:
        """Return equal shares, then further rows of all clients in turns while the step is short."""
        queues: dict[str, list[Running]] = defaultdict(list)
        for one in sorted(ready, key=lambda one: one.decoded_in):
            queues[one.handle.request.client].append(one)
        equal = [one for queue in queues.values() for one in queue[:share]]
        others = [
            (place, one) for queue in queues.values() for place, one in enumerate(queue[share:])
        ]
        others.sort(key=lambda entry: entry[0])
        further = self.times.most_rows(share, len(ready)) - len(equal)
        return equal + [one for _, one in others[: max(0, further)]]
