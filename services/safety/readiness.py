"""Whether the sidecar can do its work: mission, scorer and audit store, watched all the time."""

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
_INTERNAL = ("grpc.", "bemfleet.common.")


class Readiness:
    """Mirrors the mission's health, and only while everything that a verdict needs is there.

    Args:
        app: Told what is serving.
        channel: To the mission.
        catalog: Refreshed whenever the mission comes up.
        judge: Must be alive.
        audit: Must be reachable.
        interval_s: Time between two looks.
    """

    def __init__(
        self,
        app: App,
        channel: aio.Channel,
        catalog: Catalog,
        judge: PolicyEvaluator,
        audit: ChainWriter,
        *,
        interval_s: float = 0.25,
    ) -> None:
        self._app = app
        self._health = health_pb2_grpc.HealthStub(channel)
        self._channel = channel
        self._catalog = catalog
        self._judge = judge
        self._audit = audit
        self._interval_s = interval_s
        self._reachable = False

    async def run(self) -> None:
        """Look again and again; ends when cancelled."""
        while True:
            own = await self._own_parts()
            await self._meet_mission()
            for name in self._catalog.services:
                if not name.startswith(_INTERNAL):
                    serving = own and self._reachable and await self._serving(name)
                    await self._app.set_serving(name, serving)
            await asyncio.sleep(self._interval_s)

    async def _own_parts(self) -> bool:
        try:
            await self._audit.ping()
        except UnavailableError:
            return False
        return self._judge.alive

    async def _meet_mission(self) -> None:
        """Learn the mission's methods whenever it was away."""
        try:
            await self._health.Check(health_pb2.HealthCheckRequest(), timeout=1)
            if not self._reachable:
                await self._catalog.refresh(self._channel)
                _LOG.info("mission reached", services=self._catalog.services)
            self._reachable = True
        except grpc.RpcError:
            self._reachable = False

    async def _serving(self, name: str) -> bool:
        try:
            answer = await self._health.Check(
                health_pb2.HealthCheckRequest(service=name), timeout=1
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
