"""Recent refusals of the mission: what it has just refused is refused before it is scored.

A mission that is full refuses at once, but only after the sidecar has scored the request, which
costs more than the refusal. From a refusal on, the same method is refused to the same client by the
sidecar itself for a moment: shorter than the time in which a queue runs empty. Calls that yield
are left out: they are refused while there is still room for others.
"""

import time
from collections.abc import Callable

import grpc
from fleet.access import principal
from fleet.call_priority import yields
from fleet.errors import OverloadedError, details_of

HOLD_S = 0.25
"""Longest time for which a refusal counts, in seconds."""

_Key = tuple[str, str]


class RecentRefusals:
    """Refusals by client and method.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[_Key, tuple[float, float]] = {}

    def check(self, path: str) -> None:
        """Check that the mission has not just refused the method to the client of this call.

        Args:
            path: Called method.

        Raises:
            OverloadedError: It has; the error has the delay that the mission named.
        """
        ends, delay_s = self._refused.get((principal.get().name, path), (0.0, 0.0))
        if self._clock() < ends and not yields.get():
            raise OverloadedError(
                f"the queue is full: a request was just refused; retry in {delay_s:.1f} s", delay_s
            )

    def note(self, path: str, err: grpc.RpcError) -> None:
        """Remember an error of the mission if it is a refusal for want of room.

        Args:
            path: Called method.
            err: Error of the mission.
        """
        details, now = details_of(err), self._clock()
        is_full = details.code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_after_s
        if not is_full or yields.get():
            return
        self._refused = {key: one for key, one in self._refused.items() if now < one[0]}
        delay_s = details.retry_after_s or 0.0
        self._refused[principal.get().name, path] = (now + min(HOLD_S, delay_s), delay_s)
