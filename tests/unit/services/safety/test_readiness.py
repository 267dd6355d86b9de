"""Readiness monitor: the mission's health, while scorers and audit store are available."""

from pathlib import Path
from typing import Any

import pytest
from bem_fleet.services.safety.descriptors import Catalog
from bem_fleet.services.safety.readiness import ReadinessMonitor
from bemfleet.common.v1 import metrics_pb2
from fleet.clients import open_channel
from fleet.errors import UnavailableError
from fleet.server import App, start
from fleet.settings import FleetSettings

SERVICE = "inference.GRPCInferenceService"


class Dependencies:
    """Evaluator, audit chain and health in one."""

    def __init__(self) -> None:
        self.is_ready = True
        self.audit_is_reachable = True
        self.serving: dict[str, bool] = {}

    async def ping(self) -> None:
        """Fail while the audit store is away."""
        if not self.audit_is_reachable:
            raise UnavailableError("no store")

    async def set_serving(self, service: str, serving: bool) -> None:
        """Record the health of a service."""
        self.serving[service] = serving


@pytest.fixture
async def mission(tmp_path: Path) -> Any:
    """A mission that serves the Open Inference Protocol."""
    from inference import open_inference_pb2_grpc as rpc

    async def build(_settings: FleetSettings, app: App) -> None:
        servicer: Any = rpc.GRPCInferenceServiceServicer
        rpc.add_GRPCInferenceServiceServicer_to_server(servicer(), app.server)
        await app.register_service(SERVICE)
        await app.set_serving(SERVICE, serving=True)

    running = await start(FleetSettings(address=f"unix:{tmp_path}/m.sock", drain_s=0), build, {})
    yield running
    await running.stop()


async def test_mission_is_serving_only_with_all_dependencies(mission: Any) -> None:
    """Scorers, audit store and the mission's own health all count."""
    parts: Any = Dependencies()
    async with open_channel(mission.address) as channel:
        monitor = ReadinessMonitor(parts, channel, Catalog(), parts, parts)
        results = []
        for change in ({}, {"is_ready": False}, {"is_ready": True, "audit_is_reachable": False}):
            vars(parts).update(change)
            await monitor.check()
            results.append(parts.serving[SERVICE])
        parts.audit_is_reachable = True
        await mission.app.set_serving(SERVICE, serving=False)
        await monitor.check()
        results.append(parts.serving[SERVICE])

    assert results == [True, False, False, False]
    assert metrics_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name not in parts.serving
