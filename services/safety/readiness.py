"""Readiness monitor: mirrors the mission's health while scorers and audit store are available."""

import asyncio

import grpc
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from fleet import logs
from fleet.audit_chain import ChainWriter
from fleet.errors import UnavailableError
from fleet.server import App
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_LOG = logs.get("safety.readiness")
# Services of the runtime itself, whose health clients of the mission do not ask for.
_RUNTIME_PACKAGES = ("grpc.", "bemfleet.common.")


class ReadinessMonitor:
    """Reports each mission service as SERVING only while a verdict on its calls is possible.

    Args:
        app: Receives the health of each service.
        channel: Channel to the mission.
        catalog: Mission methods; refreshed whenever the mission becomes reachable.
        evaluator: Policy evaluator; both scorer tiers must be ready.
        audit: Audit chain; its store must be reachable.
        interval_s: Seconds between two checks.
    """

    def __init__(
        self,
        app: App,
        channel: aio.Channel,
        catalog: Catalog,
        evaluator: PolicyEvaluator,
        audit: ChainWriter,
        *,
        interval_s: float = 0.25,
    ) -> None:
        self._app = app
        self._health = health_pb2_grpc.HealthStub(channel)
        self._channel = channel
        self._catalog = catalog
        self._evaluator = evaluator
        self._audit = audit
        self._interval_s = interval_s
        self._mission_is_reachable = False

    async def run(self) -> None:
        """Check periodically; ends when cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval_s)

    async def check(self) -> None:
        """Check dependencies and mission once, and update the health of each mission service."""
        ready = await self._dependencies_are_ready()
        await self._probe_mission()
        for name in self._catalog.services:
            if not name.startswith(_RUNTIME_PACKAGES):
                serving = ready and self._mission_is_reachable and await self._is_serving(name)
                await self._app.set_serving(name, serving)

    async def _dependencies_are_ready(self) -> bool:
        try:
            await self._audit.ping()
        except UnavailableError:
            return False
        return self._evaluator.is_ready

    async def _probe_mission(self) -> None:
        """Read the mission's methods when it becomes reachable: it may be another version."""
        try:
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=1)
            if not self._mission_is_reachable:
                await self._catalog.refresh(self._channel)
                _LOG.info("mission reachable", services=self._catalog.services)
            self._mission_is_reachable = True
        except grpc.RpcError:
            self._mission_is_reachable = False

    async def _is_serving(self, name: str) -> bool:
        try:
            response = await self._health.Check(
                health_pb2.HealthCheckRequest(service=name), timeout=1
            )
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
