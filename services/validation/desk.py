"""Where comparisons are computed: a few threads off the event loop, and a bounded queue."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fleet.errors import OverloadedError
from prometheus_client import Gauge, Histogram

T = TypeVar("T")
RETRY_S = 2.0

IN_HAND = Gauge("bem_validation_comparisons", "Comparisons that upload, wait or are computed.")
SECONDS = Histogram(
    "bem_validation_compute_seconds",
    "CPU-bound time of one comparison.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class Desk:
    """Bounds what is in hand.

    Args:
        workers: Comparisons computed at once.
        waiting: Further ones that may upload or wait.
    """

    def __init__(self, workers: int, waiting: int) -> None:
        self._most = workers + waiting
        self._in_hand = 0
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="validation")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for the time of one call, its upload included.

        Raises:
            OverloadedError: All are taken.
        """
        if self._in_hand >= self._most:
            raise OverloadedError(
                f"{self._in_hand} comparisons are in hand, the most that there may be", RETRY_S
            )
        self._in_hand += 1
        IN_HAND.set(self._in_hand)
        try:
            yield
        finally:
            self._in_hand -= 1
            IN_HAND.set(self._in_hand)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread; the loop goes on meanwhile.

        A caller that leaves keeps its thread busy to the end, but its place is free: numpy cannot
        be interrupted, and the threads bound what runs.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, _timed(work))

    async def close(self) -> None:
        """Finish what runs and end the threads."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)


def _timed(work: Callable[[], T]) -> Callable[[], T]:
    def run() -> T:
        with SECONDS.time():
            return work()

    return run
