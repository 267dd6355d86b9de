"""Call slots: waves of one request's calls, and calls that wait for their siblings."""

import asyncio

import grpc
import pytest
from bem_fleet.services.gateway.call_slots import CallSlots
from grpc import aio


def failure(code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED) -> aio.AioRpcError:
    """Return an error of a call."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata())


class Mission:
    """Runs up to ``capacity`` calls at once and refuses further ones.

    Attributes:
        most: Largest number of calls that ran at once.
        refused: Number of refused calls.
    """

    def __init__(self, capacity: int) -> None:
        self.most = self.refused = self._running = 0
        self._capacity = capacity

    async def call(self) -> None:
        """Run one call."""
        if self._running >= self._capacity:
            self.refused += 1
            raise failure()
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await asyncio.sleep(0.001)
        finally:
            self._running -= 1


async def run(slots: CallSlots, mission: Mission) -> None:
    """Run one call as the gateway does."""
    while True:
        async with slots.slot():
            try:
                return await mission.call()
            except grpc.RpcError as err:
                if not slots.can_wait(err):
                    raise


async def test_many_calls_run_in_waves() -> None:
    """Never more than the limit run at once, and all of them end."""
    mission, slots = Mission(100), CallSlots(3)
    await asyncio.gather(*(run(slots, mission) for _ in range(20)))

    assert mission.most == 3


@pytest.mark.parametrize("capacity", [1, 2, 7])
async def test_calls_wait_for_their_siblings_when_the_mission_is_full(capacity: int) -> None:
    """A mission of any capacity serves a request of any size without an error."""
    mission, slots = Mission(capacity), CallSlots(16)
    await asyncio.gather(*(run(slots, mission) for _ in range(40)))

    assert mission.most == capacity
    # The slots shrink to the capacity: further calls are not refused one by one.
    assert mission.refused < 40


async def test_a_mission_that_is_full_without_this_request_fails_it() -> None:
    """Only others can free it, so that the client is told to retry."""
    with pytest.raises(grpc.RpcError):
        await asyncio.gather(*(run(slots, Mission(0)) for slots in [CallSlots(4)]))


async def test_other_errors_are_never_waited_out() -> None:
    """An invalid request stays invalid."""
    slots = CallSlots(2)
    async with slots.slot(), slots.slot():
        assert slots.can_wait(failure())
        assert not slots.can_wait(failure(grpc.StatusCode.INVALID_ARGUMENT))


async def test_cancelled_call_frees_its_slot() -> None:
    """A disconnect of one client leaves nothing occupied."""
    slots, never = CallSlots(1), asyncio.Event()

    async def wait() -> None:
        async with slots.slot():
            await never.wait()

    stuck = asyncio.create_task(wait())
    await asyncio.sleep(0)
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    await asyncio.wait_for(run(slots, Mission(1)), timeout=5)
