"""Compute pool: threads for CPU-bound comparisons, and a bound on comparisons in progress."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fleet.errors import OverloadedError
from prometheus_client import Gauge, Histogram

T = TypeVar("T")
RETRY_S = 2.0

COMPARISONS_IN_PROGRESS = Gauge(
    "bem_validation_comparisons_in_progress", "Comparisons that upload, wait or are computed."
)
COMPUTE_SECONDS = Histogram(
    "bem_validation_compute_seconds",
    "CPU-bound time of one comparison.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class ComputePool:
    """Computes comparisons off the event loop and bounds how many are in progress.

    Args:
        workers: Number of threads.
        max_queued: Number of further comparisons that may upload or wait.
    """

    def __init__(self, workers: int, max_queued: int) -> None:
        self._max_in_progress = workers + max_queued
        self._in_progress = 0
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="validation")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot for the duration of one call, including its upload.

        Raises:
            OverloadedError: All slots are occupied.
        """
        if self._in_progress >= self._max_in_progress:
            raise OverloadedError(
                f"too many comparisons in progress ({self._in_progress}/{self._max_in_progress}); "
                f"retry in {RETRY_S:g} s",
                RETRY_S,
            )
        self._in_progress += 1
        COMPARISONS_IN_PROGRESS.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            COMPARISONS_IN_PROGRESS.set(self._in_progress)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread and return its result.

        A cancelled caller leaves its thread busy to the end, because numpy cannot be interrupted;
        its slot is free at once, and the number of threads bounds what runs.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, _timed(work))

    async def close(self) -> None:
        """Wait for running comparisons and end the threads."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)


def _timed(work: Callable[[], T]) -> Callable[[], T]:
    def run() -> T:
        with COMPUTE_SECONDS.time():
            return work()

    return run
