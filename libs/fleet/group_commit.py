"""Group commit: what concurrent callers write goes to disk in one step.

While one group is written, the next one gathers. A caller alone waits for one write; under load
the cost of a write, such as an fsync, is shared by all callers of a group, and each still returns
only after its own item was written.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Writes items in groups, in the order of the calls.

    Args:
        write: Writes a group; returns one result for each item, in their order. What it raises,
            every caller of the group gets.
        limit: Largest cost of a group; an item of a higher cost is a group of its own.
        cost: Cost of an item, above 0; each costs 1 by default.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        limit: int,
        cost: Callable[[T], int] = lambda _: 1,
    ) -> None:
        self._write, self._limit, self._cost = write, limit, cost
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Write an item and return its result; an item whose caller is gone is written too."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while group := self._next_group():
            try:
                results = await self._write([item for item, _ in group])
            except Exception as err:  # noqa: BLE001 - every caller of the group raises it
                for _, done in group:
                    if not done.done():
                        done.set_exception(err)
                continue
            for (_, done), result in zip(group, results, strict=True):
                if not done.done():
                    done.set_result(result)

    def _next_group(self) -> list[tuple[T, "asyncio.Future[R]"]]:
        """Take the next items that fit the limit together, at least one if any waits."""
        total = count = 0
        for item, _ in self._waiting:
            total += self._cost(item)
            if count and total > self._limit:
                break
            count += 1
        group = self._waiting[:count]
        del self._waiting[:count]
        return group
