"""Waiting for what other processes and threads do, which give no event to wait for."""

import asyncio
from collections.abc import Callable
from typing import Any


async def eventually(condition: Callable[[], Any], limit_s: float) -> None:
    """Wait until ``condition`` returns true.

    Args:
        condition: Check, called every 50 ms.
        limit_s: Longest wait, in seconds.

    Raises:
        TimeoutError: The condition did not hold within ``limit_s``.
    """
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.05)
