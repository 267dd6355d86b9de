"""Groups of writes: who shares one, what each caller gets, and what an error ends."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from fleet.group_commit import GroupCommit


class Disk:
    """Writes that wait until they are released."""

    def __init__(self, limit: int = 100, cost: Callable[[int], int] = lambda _: 1) -> None:
        self.groups: list[list[int]] = []
        self.released = asyncio.Event()
        self.group: GroupCommit[int, str] = GroupCommit(self._write, limit, cost)

    async def _write(self, items: Sequence[int]) -> list[str]:
        self.groups.append(list(items))
        await self.released.wait()
        if 13 in items:
            raise OSError("disk is full")
        return [f"wrote {item}" for item in items]


async def test_calls_during_a_write_share_the_next_one() -> None:
    """Nobody waits for another caller's group, and each gets the result of its own item."""
    disk = Disk()
    calls = [asyncio.create_task(disk.group.submit(n)) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls += [asyncio.create_task(disk.group.submit(n)) for n in (3, 4)]
    await asyncio.sleep(0)
    disk.released.set()

    assert await asyncio.gather(*calls) == [f"wrote {n}" for n in range(5)]
    assert disk.groups == [[0, 1, 2], [3, 4]]


async def test_a_group_ends_at_its_limit() -> None:
    """Costs add up; an item above the limit is written alone."""
    disk = Disk(limit=10, cost=lambda item: item)
    disk.released.set()
    await asyncio.gather(*(disk.group.submit(n) for n in (6, 4, 1, 50, 9, 1)))

    assert disk.groups == [[6, 4], [1], [50], [9, 1]]


async def test_an_error_ends_its_group_only() -> None:
    """Callers of the group raise it; the next group is written."""
    disk = Disk(limit=2)
    disk.released.set()
    found = await asyncio.gather(
        *(disk.group.submit(n) for n in (13, 2, 3)), return_exceptions=True
    )

    assert [type(one) for one in found] == [OSError, OSError, str]
    with pytest.raises(OSError, match="full"):
        await disk.group.submit(13)
    assert await disk.group.submit(5) == "wrote 5"


async def test_an_item_of_a_caller_that_is_gone_is_written() -> None:
    """Its neighbour gets its own result."""
    disk = Disk()
    gone, stays = (asyncio.create_task(disk.group.submit(n)) for n in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    disk.released.set()

    assert await stays == "wrote 2"
    assert disk.groups == [[1, 2]]
