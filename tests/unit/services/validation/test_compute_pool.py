"""Compute pool: slots and threads."""

import asyncio
import threading

import pytest
from bem_fleet.services.validation.compute_pool import (
    COMPARISONS_IN_PROGRESS,
    RETRY_S,
    ComputePool,
)
from fleet.errors import OverloadedError


async def test_slots_bound_what_is_in_progress() -> None:
    """One more than workers and queue is refused with a delay; a freed slot can be used again."""
    pool = ComputePool(workers=1, max_queued=1)
    with pool.slot(), pool.slot():
        with pytest.raises(OverloadedError, match=r"in progress \(2/2\); retry in 2 s") as caught:
            pool.slot().__enter__()
        gauge = COMPARISONS_IN_PROGRESS._value.get()
    with pool.slot():
        pass
    await pool.close()

    assert caught.value.retry_after_s == RETRY_S
    assert (gauge, COMPARISONS_IN_PROGRESS._value.get()) == (2, 0)


async def test_a_failed_call_frees_its_slot() -> None:
    """An error within a slot does not occupy it for ever."""
    pool = ComputePool(workers=1, max_queued=0)
    for _ in range(3):
        with pytest.raises(RuntimeError), pool.slot():
            raise RuntimeError
    await pool.close()


async def test_computing_leaves_the_loop_free() -> None:
    """Work runs in a thread of its own while the loop answers others."""
    pool = ComputePool(workers=1, max_queued=0)
    go, main = threading.Event(), threading.get_ident()

    def work() -> int:
        go.wait(10)
        return threading.get_ident()

    running = asyncio.ensure_future(pool.compute(work))
    await asyncio.sleep(0)
    go.set()  # the loop is not blocked by the work, which waits for this
    used = await running
    await pool.close()

    assert used != main
