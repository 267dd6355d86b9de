"""Calls of a mission that may have no pods: waiting, giving up, and the metric for autoscalers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bem_fleet.services.gateway.idle_missions import IdleMission
from fleet.clients import open_channel
from fleet.errors import UnavailableError
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

SERVICE = "a.Mission"


def gauge(name: str, mission: str) -> float | None:
    """Return the value of a gauge of the gateway."""
    return REGISTRY.get_sample_value(f"bem_gateway_{name}", {"mission": mission})


@asynccontextmanager
async def pod(socket: Path) -> AsyncIterator[health.aio.HealthServicer]:
    """Run what a ready pod shows of itself."""
    server, servicer = aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(None)


async def test_a_call_waits_for_the_first_pod(tmp_path: Path) -> None:
    """It is held until the mission is SERVING, not only reachable; the next one is not held."""
    async with open_channel(f"unix:{tmp_path}/s") as channel:
        idle = IdleMission("woken", channel, SERVICE, wake_timeout_s=30, idle_after_s=0)
        entered = asyncio.Event()

        async def call() -> None:
            async with idle.call():
                entered.set()

        assert (gauge("mission_wanted", "woken"), gauge("calls_held", "woken")) == (0, 0)
        first = asyncio.create_task(call())
        await asyncio.sleep(0.05)
        held = gauge("mission_wanted", "woken"), gauge("calls_held", "woken")
        async with pod(tmp_path / "s") as servicer:
            await asyncio.sleep(0.3)
            loading = entered.is_set()
            await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            await first
            async with idle.call():
                second = gauge("mission_wanted", "woken"), gauge("calls_held", "woken")

        assert held == (1, 1)
        assert not loading
        assert second == (1, 0)
        assert (gauge("mission_wanted", "woken"), gauge("calls_held", "woken")) == (0, 0)


async def test_a_call_that_no_pod_takes_says_when_to_repeat_it(tmp_path: Path) -> None:
    """After the time it is UNAVAILABLE with a delay, and no longer counted."""
    async with open_channel(f"unix:{tmp_path}/s") as channel:
        idle = IdleMission("asleep", channel, SERVICE, wake_timeout_s=0.1, idle_after_s=60)
        with pytest.raises(UnavailableError, match=r"'asleep' has no pod .* for 0\.1 s") as err:
            async with idle.call():
                raise AssertionError("the call was let through")

    assert err.value.retry_after_s == 10
    assert gauge("calls_held", "asleep") == 0
    assert gauge("mission_wanted", "asleep") == 1  # for a minute: the client was asked to return


async def test_a_client_that_leaves_is_held_no_longer(tmp_path: Path) -> None:
    """A cancelled call gives its place back."""
    async with open_channel(f"unix:{tmp_path}/s") as channel:
        idle = IdleMission("left", channel, SERVICE, wake_timeout_s=30, idle_after_s=0)
        call = asyncio.create_task(idle.call().__aenter__())
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    assert (gauge("mission_wanted", "left"), gauge("calls_held", "left")) == (0, 0)
