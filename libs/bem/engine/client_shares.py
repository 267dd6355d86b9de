"""Client shares: rows, slots and queue places by client, so that one client's work delays it only.

Requests name the client that they come from. As long as one client has requests, nothing is
divided. Otherwise:

- A free slot goes to the client with the fewest running requests; of one client's, the oldest is
  first. The last slots, and as many places in the queue, are for clients that have none yet.
- A client may have its part of the places in the queue, divided by all that asked within ten
  seconds, and beyond it as many as are free: half of the queue stays for those who come later.
- Each decode step computes the rows of the clients with the fewest requests. A step with the rows
  of all takes longer, by the times of past steps; it is due whenever the short steps have earned
  that difference. Each of the other clients earns a quarter of a short step's time, so that it
  slows those with few requests by a quarter at most. On a GPU further rows cost little, and nearly
  every step has all.
- A client counts for half a second after its last request: one that asks again and again need not
  wait for the end of a long step each time. While requests wait for a slot it does not: steps of
  one row would halve the throughput just when it is needed.

Example: a client streams 16 answers and another asks for a short one. A step of one row takes
0.1 s and one of 17 rows 0.6 s. In steps of 17 the short answer would take six times as long.
Instead twenty steps of its own row earn the 0.5 s that a step of all rows takes longer: 21 tokens
in 2.6 s instead of 2.1 s, and the 16 streams have a fifth of the time.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from bem.engine.api import RequestHandle
from bem.engine.sequence import Sequence as Running

# What each client with more requests earns of the time of a short step.
EARNED = 0.25
# A client without a request counts for this long, in seconds.
LINGER_S = 0.5
# A client counts for this long after it asked, in seconds, when places in the queue are divided.
PRESENT_S = 10.0
# Weight of the last step in the mean of its size.
_NEWEST = 0.2


class StepTimes:
    """Times of decode steps by number of rows."""

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

    def seconds(self, rows: int) -> float:
        """Return the time that a step is expected to take, in seconds; 0 without rows.

        A size that has not occurred is taken to cost its share of the nearest one.
        """
        if not self._means or not rows:
            return 0.0
        size = rows.bit_length()
        nearest = min(self._means, key=lambda one: abs(one - size))
        mean_rows, mean = self._means[nearest]
        return mean if nearest == size else mean * rows / mean_rows


class ClientShares:
    """Divides slots, rows and places in the queue among clients.

    Args:
        guests: Slots, and places in the queue, for clients that have none yet.
        clock: Monotonic clock in seconds.

    Attributes:
        times: Times of past decode steps.
        guests: Slots, and places in the queue, for clients that have none yet.
    """

    def __init__(self, guests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.times = StepTimes()
        self.guests, self._clock = guests, clock
        self._seen: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._earned_s = 0.0
        self._crowded = False
        self._turn = 0

    def may_wait(self, client: str, waiting: Sequence[RequestHandle], limit: int) -> bool:
        """Return whether a client's request may join the queue; it counts as present from now on.

        Args:
            client: Name of the client.
            waiting: Requests in the queue.
            limit: Places for all clients; those for guests come on top.
        """
        now = self._clock()
        asked = {one: at for one, at in self._asked.items() if now - at < PRESENT_S}
        self._asked = asked | {client: now}
        own = sum(one.request.client == client for one in waiting)
        if len(waiting) >= limit:
            return not own and len(waiting) < limit + self.guests
        return own < max(limit // len(self._asked), limit - len(waiting))

    def next_waiting(
        self, waiting: Iterable[RequestHandle], running: Sequence[Running], free_slots: int
    ) -> RequestHandle | None:
        """Return the request that gets the next slot; None if there is no slot for it.

        Args:
            waiting: Requests in the queue, in the order of their arrival.
            running: Requests with a slot.
            free_slots: Free slots, those for guests included.
        """
        requests = (one.handle.request for one in running)
        held = Counter(one.client for one in requests if not one.yields)
        first = min(waiting, key=lambda one: held[one.request.client], default=None)
        self._crowded = first is not None
        if first is None or not free_slots:
            return None
        if free_slots <= self.guests and held[first.request.client]:
            return None
        return first

    def rows(self, ready: Sequence[Running], running: Sequence[Running]) -> list[Running]:
        """Return the sequences that the next decode step computes.

        Args:
            ready: Sequences that could be computed.
            running: All sequences with a slot: a client whose prompt is still read has a share too.
        """
        present = Counter(one.handle.request.client for one in running)
        now, linger_s = self._clock(), 0.0 if self._crowded else LINGER_S
        recent = {client: at for client, at in self._seen.items() if now - at < linger_s}
        self._seen = recent | dict.fromkeys(present, now)
        if len(self._seen) > 1:
            ready = self._due(ready, {client: present[client] for client in self._seen})
        self._turn += 1
        for one in ready:
            one.decoded_in = self._turn
        return list(ready)

    def _due(self, ready: Sequence[Running], requests: dict[str, int]) -> Sequence[Running]:
        """Return all rows if a step with them is due, else those of the smallest clients.

        Args:
            ready: Sequences that could be computed.
            requests: Running requests of each client; 0 for one that lingers.
        """
        fewest = min(requests.values())
        small = [one for one in ready if requests[one.handle.request.client] == fewest]
        others = sum(count > fewest for count in requests.values())
        if not others:
            self._earned_s = 0.0
            return ready
        if not fewest:  # its next request waits for a short step only
            return sorted(ready, key=lambda one: one.decoded_in)[:1]
        longer_s = self.times.seconds(len(ready)) - self.times.seconds(len(small))
        if self._earned_s >= longer_s:
            self._earned_s = 0.0
            return ready
        # While its prompt is read there is no row of it; the time passes all the same.
        self._earned_s += EARNED * others * self.times.seconds(max(1, len(small)))
        return small
