"""Call slots: the calls of one HTTP request that run at once, in waves if there are many.

A request of 16 prompts with 8 choices each makes 128 calls, more than a mission runs and queues. At
most ``limit`` of them run at once. If the mission is full nevertheless and calls of the same
request are part of the load, a call waits for one of them instead of failing: a client that is told
to retry would meet the same limit again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc


class CallSlots:
    """Slots of the calls of one request.

    Args:
        limit: Calls that run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and occupy it within the context."""
        while self._running >= self._limit:
            self._freed.clear()
            await self._freed.wait()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._freed.set()

    def can_wait(self, err: grpc.RpcError) -> bool:
        """Return whether a failed call may run again once another call of the request has ended.

        The number of slots shrinks then to that of the other calls. It is asked within ``slot``.

        Args:
            err: Error of the call.
        """
        others = self._running - 1
        if err.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or others < 1:
            return False
        self._limit = min(self._limit, others)
        return True
