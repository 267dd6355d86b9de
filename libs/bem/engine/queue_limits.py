"""Limits of the queue: which requests may wait, and which are refused at once with a delay.

The queue is bounded by places and by time. A request that would wait longer than ``max_wait_s`` is
refused although there are places: its client would have given up before its turn.

A request that yields (``GenerationRequest.yields``) never waits: it needs a free slot at once and
an empty queue, and gives the slot back when another request waits.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence

from bem.engine.api import GenerationRequest, RequestHandle
from bem.engine.engine_core import EngineCore
from bem.engine.sequence import Sequence as Running
from bem.errors import QueueFullError

MIN_RETRY_S, MAX_RETRY_S = 0.5, 60.0


class QueueLimits:
    """Limits of one engine's queue.

    Args:
        core: The engine's core, whose slots and times it reads.
        places: Requests that may wait, beside those of guests.
        max_wait_s: Longest expected wait, in seconds.
    """

    def __init__(self, core: EngineCore, places: int, max_wait_s: float = math.inf) -> None:
        self._core, self.places, self._max_wait_s = core, places, max_wait_s

    def check(self, request: GenerationRequest, waiting: Sequence[RequestHandle]) -> None:
        """Check that a new request may wait.

        Args:
            request: The new request.
            waiting: Requests in the queue.

        Raises:
            QueueFullError: It may not.
        """
        scheduler, client = self._core.scheduler, request.client
        shares = scheduler.shares
        may_wait = shares.may_wait(client, waiting, self.places)
        if request.yields:
            may_wait = not waiting and scheduler.free_slots > shares.guests
        elif waiting and may_wait:
            may_wait = self._wait_s(client, waiting) <= self._max_wait_s
        if not may_wait:
            raise self.refusal(waiting)

    def yielding(self, waiting: Sequence[RequestHandle]) -> Running | None:
        """Return the running request that gives its slot to one that waits; None for none."""
        running = reversed(self._core.scheduler.running) if waiting else ()
        return next((one for one in running if one.handle.request.yields), None)

    def refusal(self, waiting: Sequence[RequestHandle]) -> QueueFullError:
        """Return the error of a refused request, with the delay after which there is room."""
        delay_s = self._seconds(len(waiting) + 1)
        return QueueFullError(len(waiting), min(MAX_RETRY_S, max(MIN_RETRY_S, delay_s)))

    def _wait_s(self, client: str, waiting: Sequence[RequestHandle]) -> float:
        """Estimate how long a new request waits: clients are served in turn, each in order."""
        counts = Counter(one.request.client for one in waiting)
        own, scheduler = counts[client] + 1, self._core.scheduler
        turns = sum(min(count, own) for count in (counts | {client: own}).values())
        free = max(0, scheduler.free_slots - scheduler.shares.guests)
        return self._seconds(max(0, turns - free))

    def _seconds(self, requests: int) -> float:
        """Return the time until requests have had a slot: batches times the mean request time."""
        scheduler = self._core.scheduler
        slots = max(1, len(scheduler.running) + scheduler.free_slots)
        return requests / slots * self._core.mean_request_s


def without_cancelled(waiting: Sequence[RequestHandle]) -> deque[RequestHandle]:
    """Return a queue without cancelled requests, except the first: it may be in admission."""
    return deque(one for place, one in enumerate(waiting) if place == 0 or not one.cancelled)
