"""The online mission in this process, with the tiny model or the packaged one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bem_fleet.feedback.intake import FeedbackIntake
from bem_fleet.feedback.record import FeedbackRecord
from bem_fleet.services.online.build import build
from bem_fleet.services.online.servicer import STATUS
from bem_fleet.services.online.settings import OnlineSettings
from bemfleet.online.v1 import online_pb2 as pb
from bemfleet.online.v1 import online_pb2_grpc as rpc
from fleet import mission
from fleet.clients import open_channel, wait_ready
from fleet.server import RunningServer, start
from fleet.testing import RedisServer

from tests.support.feedback import user

READY_S = 240


def online_settings(folder: Path, redis: RedisServer, **settings: Any) -> OnlineSettings:
    """Return settings of a service with the tiny model on a unix socket."""
    return OnlineSettings(
        **{
            "address": f"unix:{folder}/online.sock",
            "backbone": "tiny",
            "adapter_folder": folder / "no-adapters",
            "bank": folder / "bank",
            "code_folder": folder / "codes",
            "redis_url": redis.url,
            "context_tokens": 256,
            "rank": 4,
            "suite_prompts": 4,
            "poll_s": 0.2,
            "drain_s": 1,
            **settings,
        }
    )


@asynccontextmanager
async def online(
    folder: Path, redis: RedisServer, **settings: Any
) -> AsyncIterator[tuple[Any, RunningServer]]:
    """Run the service in this process; yields a stub and the server."""
    running = await start(online_settings(folder, redis, **settings), build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, mission.SERVICE, READY_S)
            yield rpc.OnlineServiceStub(channel), running
    finally:
        await running.stop()


async def correct(
    redis: RedisServer, pairs: list[tuple[str, str]], *, first: int = 0, **fields: Any
) -> list[str]:
    """Append corrections of as many users to the queue; return the ids of the entries."""
    intake = FeedbackIntake(redis.url)
    try:
        found = []
        for number, (prompt, correction) in enumerate(pairs, first):
            given = {"user": user(number), "consent": True, "completion_id": f"answer-{number}"}
            record = FeedbackRecord(prompt=prompt, correction=correction, **{**given, **fields})
            found.append((await intake.submit(record)).identifier)
        return found
    finally:
        intake.close()


async def until(
    found: Callable[[], Awaitable[Any]], what: str, *, limit_s: float = 120, step_s: float = 0.2
) -> Any:
    """Return the first result that is true."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if result := await found():
            return result
        await asyncio.sleep(step_s)
    raise AssertionError(f"{what}: not within {limit_s:g} s")


async def versions(stub: Any) -> list[pb.Version]:
    """Return the versions, newest first."""
    return list((await stub.Versions(pb.VersionsRequest())).versions)
