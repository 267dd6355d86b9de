"""Missions that may have no pods: their calls wait for one, and a metric asks for it.

An autoscaler follows ``bem_gateway_mission_wanted``. The gateway itself starts no pod: it has no
rights in the cluster.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from fleet.clients import wait_ready
from fleet.errors import UnavailableError
from grpc import aio
from prometheus_client import Gauge

WANTED = Gauge(
    "bem_gateway_mission_wanted",
    "1 while a mission that may have no pods has calls or had one lately, else 0.",
    ["mission"],
)
HELD = Gauge("bem_gateway_calls_held", "Calls that wait for a mission's first pod.", ["mission"])
_RETRY_AFTER_S = 10.0


class IdleMission:
    """Calls of a mission that may have no pods.

    Args:
        name: Name of the mission.
        channel: Channel to the mission's Service.
        service: Name in ``grpc.health.v1`` that is SERVING once calls are answered.
        wake_timeout_s: Longest time that a call waits for a pod, in seconds.
        idle_after_s: Time after the last call for which the mission stays wanted, in seconds.
    """

    def __init__(
        self,
        name: str,
        channel: aio.Channel,
        service: str,
        *,
        wake_timeout_s: float,
        idle_after_s: float,
    ) -> None:
        self._name, self._channel, self._service = name, channel, service
        self._wake_timeout_s, self._idle_after_s = wake_timeout_s, idle_after_s
        self._calls, self._ended_at = 0, -idle_after_s
        WANTED.labels(name).set_function(self._wanted)
        HELD.labels(name).set(0)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Hold a call until the mission answers; the mission is wanted until the block ends.

        Raises:
            UnavailableError: No pod became ready in time.
        """
        self._calls += 1
        try:
            # Only a pod that is ready is behind the Service, so that a connection is enough.
            if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
                await self._hold()
            yield
        finally:
            self._calls -= 1
            self._ended_at = time.monotonic()

    async def _hold(self) -> None:
        HELD.labels(self._name).inc()
        try:
            await wait_ready(self._channel, self._service, self._wake_timeout_s)
        except UnavailableError as err:
            raise UnavailableError(
                f"mission {self._name!r} has no pod that is ready; it was waited for "
                f"{self._wake_timeout_s:g} s; repeat the request",
                _RETRY_AFTER_S,
            ) from err
        finally:
            HELD.labels(self._name).dec()

    def _wanted(self) -> float:
        return float(self._calls > 0 or time.monotonic() - self._ended_at < self._idle_after_s)
