"""Health servicer (``grpc.health.v1``) whose watch streams end when the server drains."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from fleet.errors import NotFoundError


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped package
    """Reports the status of each service and streams its changes.

    It replaces gRPC's own servicer: there a watch stream outlives the graceful shutdown, so that
    one watcher keeps a stopping server for its whole drain time, and a watcher that leaves
    silences the other watchers of the same service.
    """

    def __init__(self) -> None:
        self._status: dict[str, HealthCheckResponse.ServingStatus.ValueType] = {}
        self._changed = asyncio.Condition()
        self._shutting_down = False
        self._watches_ended = False

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> HealthCheckResponse:
        """Return the status of a service.

        Raises:
            NotFoundError: The service is not registered.
        """
        status = self._status.get(request.service)
        if status is None:
            raise NotFoundError(f"service: {request.service[:80]!r} is not served here")
        return HealthCheckResponse(status=status)

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: aio.ServicerContext[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> AsyncIterator[HealthCheckResponse]:
        """Stream the status of a service, now and at each change, until the server drains."""
        sent = None
        while True:
            async with self._changed:
                while (status := self._of(request.service)) == sent and not self._watches_ended:
                    await self._changed.wait()
            if status == sent:
                return  # all is told, also what changed while the last status was being sent
            sent = status
            yield HealthCheckResponse(status=status)

    async def set(self, service: str, status: HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Set the status of a service; ignored after the graceful shutdown has begun."""
        async with self._changed:
            if not self._shutting_down:
                self._status[service] = status
                self._changed.notify_all()

    async def enter_graceful_shutdown(self) -> None:
        """Set every service to NOT_SERVING for good."""
        async with self._changed:
            self._shutting_down = True
            self._status = dict.fromkeys(self._status, HealthCheckResponse.NOT_SERVING)
            self._changed.notify_all()

    async def end_watches(self) -> None:
        """End the watch streams after their last change."""
        async with self._changed:
            self._watches_ended = True
            self._changed.notify_all()

    def _of(self, service: str) -> HealthCheckResponse.ServingStatus.ValueType:
        return self._status.get(service, HealthCheckResponse.SERVICE_UNKNOWN)
