"""Two sidecars of one machine that share one scorer server process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from bem_fleet.services.router.servicer import SERVICE
from bem_fleet.services.safety.scorer_client import is_ready
from bemfleet.router.v1 import router_pb2 as pb
from fleet.clients import wait_ready
from fleet.testing import RedisServer
from grpc import aio

from tests.integration.sidecars import Scene, scene, start_scorer_server
from tests.integration.test_sidecar import BAD, CLEAN, collect

START_S = 240


@contextmanager
def scorer_server(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a scorer server until the block ends."""
    process = start_scorer_server(path)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


async def wait_for_scorer(path: Path) -> None:
    """Wait until both tiers of a scorer server are loaded."""
    limit = time.monotonic() + START_S
    while not await asyncio.to_thread(is_ready, path):
        assert time.monotonic() < limit
        await asyncio.sleep(0.1)


@pytest.fixture
async def sidecars(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[list[Scene]]:
    """Two missions, each behind its own sidecar, without a scorer server yet."""
    async with AsyncExitStack() as stack:
        scenes = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            socket = tmp_path / "scorer.sock"
            scenes.append(
                await stack.enter_async_context(
                    scene(folder, redis_server, wait=False, scorer_socket=socket)
                )
            )
        yield scenes


async def blocked_code(sidecar: Scene, text: str) -> grpc.StatusCode:
    """Return the status code of a call whose response is not released."""
    sidecar.router.pieces = [text]
    released: list[str] = []
    call = sidecar.stub.Generate(pb.GenerateRequest(prompt="hi"))
    with pytest.raises(aio.AioRpcError) as caught:
        await collect(call, released)
    assert text not in "".join(released)
    return caught.value.code()


async def test_sidecars_share_a_scorer_and_survive_its_kill(
    tmp_path: Path, sidecars: list[Scene]
) -> None:
    """Both sidecars block without the scorer and after its kill -9, and filter with it."""
    path = tmp_path / "scorer.sock"
    for sidecar in sidecars:
        assert await blocked_code(sidecar, CLEAN) is grpc.StatusCode.UNAVAILABLE
    with scorer_server(path) as first:
        await wait_for_scorer(path)
        await _assert_both_filter(sidecars)
        own = psutil.Process().children()
        own_scorers = [one for one in own if "bem_fleet.guard.scorer" in one.cmdline()]
        children = psutil.Process(first.pid).children()
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        codes = [await blocked_code(sidecar, CLEAN) for sidecar in sidecars]
        _, alive = psutil.wait_procs(children, timeout=30)
    with scorer_server(path):
        await wait_for_scorer(path)
        await _assert_both_filter(sidecars)

    assert own_scorers == []  # the sidecars run in this process and have no scorers of their own
    assert len(children) == 2  # one per tier
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2
    assert not alive


async def _assert_both_filter(sidecars: list[Scene]) -> None:
    for sidecar in sidecars:
        await wait_ready(sidecar.channel, SERVICE, 60)
        assert await blocked_code(sidecar, BAD) is grpc.StatusCode.PERMISSION_DENIED
        sidecar.router.pieces = [CLEAN]
        assert "".join(response.text for response in await sidecar.generate()) == CLEAN
