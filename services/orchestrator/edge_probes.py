"""Probes of the integration graph: both ends of every edge are asked, as a caller would ask them.

A ready pod may still refuse its callers: a certificate has expired, a policy closes the port, the
sidecar is there and the mission behind it is not. A probe is a call of ``MissionService.Describe``
through the mission's Service and sidecar, with the orchestrator's key; it generates nothing.
"""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
from collections.abc import Callable

import grpc
from bem_fleet.services.orchestrator.fleet_store import FleetView
from bem_fleet.services.orchestrator.integration_graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.mission import Mission
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from fleet.access.own_key import Metadata
from prometheus_client import Gauge

TIMEOUT_S = 5.0
_MAX_REASON = 200
HEALTHY = Gauge(
    "bem_orchestrator_edge_healthy",
    "1 where both ends of an edge of the integration graph answer, else 0.",
    ["source", "target", "interface"],
)


class EdgeProbes:
    """Asks the missions at the ends of edges.

    Args:
        view: The missions.
        stub: Returns the MissionService of a mission.
        metadata: Returns the metadata of a call with the orchestrator's key.

    Attributes:
        problems: Why a mission did not answer its last probe, by ``namespace/name``.
    """

    def __init__(
        self,
        view: FleetView,
        stub: Callable[[Mission], mission_pb2_grpc.MissionServiceAsyncStub],
        metadata: Callable[[], Metadata],
    ) -> None:
        self.problems: dict[str, str] = {}
        self._view, self._stub, self._metadata = view, stub, metadata

    async def run(self, interval_s: float) -> None:
        """Probe at every interval, until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(interval_s)

    async def probe(self) -> None:
        """Ask every end of an edge once and export the health of the edges."""
        missions = self._view.list_missions()
        ends = CrossMissionIntegrator(missions).ends()
        reasons = await asyncio.gather(*(self._ask(mission) for mission in ends))
        found = {mission.key: reason for mission, reason in zip(ends, reasons, strict=True)}
        self.problems = {key: reason for key, reason in found.items() if reason}
        HEALTHY.clear()
        for edge in CrossMissionIntegrator(missions, self.problems).edges():
            HEALTHY.labels(edge.source, edge.target, edge.interface).set(not edge.problem)

    async def _ask(self, mission: Mission) -> str:
        """Return why a mission does not answer; empty if it does."""
        request = mission_pb2.DescribeRequest()
        try:
            await self._stub(mission).Describe(
                request, timeout=TIMEOUT_S, metadata=self._metadata()
            )
        except grpc.RpcError as err:
            code = err.code() if isinstance(err, grpc.aio.AioRpcError) else None
            details = err.details() if isinstance(err, grpc.aio.AioRpcError) else str(err)
            return f"{code.name if code else 'UNKNOWN'}: {details or ''}"[:_MAX_REASON]
        return ""
