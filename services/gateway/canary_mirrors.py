"""Mirrored calls of one mission: they run in the background and are the first to yield under load.

The mission itself refuses a mirrored call unless it has a slot free at once (``bem-yields``). From
a call that was refused, mirrored or a client's, until the delay that the refusal named has passed,
no mirrored call is sent at all: the mission would only spend time on refusing it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import Counter

# A slow canary must cost observations, never memory: mirrored calls beyond this are dropped.
MAX_MIRRORS = 32
MIRRORED = Counter("bem_gateway_mirrored_total", "Requests sent to the other track too.", ["end"])


class CanaryMirrors:
    """Mirrored calls that run now.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._held_until = clock, 0.0
        self.running: set[asyncio.Task[None]] = set()

    def may_run(self) -> bool:
        """Return whether a mirrored call may be sent now; one that may not is counted."""
        end = "dropped" if len(self.running) >= MAX_MIRRORS else None
        end = "yielded" if self._clock() < self._held_until else end
        if end:
            MIRRORED.labels(end).inc()
        return end is None

    def run(self, mirror: Coroutine[Any, Any, None]) -> None:
        """Run a mirrored call in the background."""
        task = asyncio.create_task(mirror)
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    def hold(self, seconds: float) -> None:
        """Send no mirrored call for some time: the mission has refused a call."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def close(self) -> None:
        """Cancel the mirrored calls."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
