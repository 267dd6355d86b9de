"""Events about adapters that a mission refuses to serve.

A mission serves its base model and all good adapters beside a bad one, so nobody who looks at the
pods would notice. The leader asks each mission for what it refused, and records a Warning Event
that names the adapter and the reason when that changes.
"""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
from collections.abc import Callable, Mapping

import grpc
from bem_fleet.services.orchestrator import events
from bem_fleet.services.orchestrator.fleet_store import FleetView
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.mission import Mission
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from fleet import logs
from fleet.access.own_key import Metadata

_LOG = logs.get("orchestrator.adapter_rejections")
_TIMEOUT_S = 5.0


class AdapterRejections:
    """Records what the missions refuse.

    Args:
        api: Connection to the API server.
        view: The missions.
        stub: Returns the MissionService of a mission.
        metadata: Returns the metadata of a call with the orchestrator's key.
    """

    def __init__(
        self,
        api: KubeApi,
        view: FleetView,
        stub: Callable[[Mission], mission_pb2_grpc.MissionServiceAsyncStub],
        metadata: Callable[[], Metadata],
    ) -> None:
        self._api, self._view, self._stub, self._metadata = api, view, stub, metadata
        self._known: dict[str, dict[str, str]] = {}

    async def run(self, interval_s: float, leads: Callable[[], bool]) -> None:
        """Ask every mission at every interval while this replica leads, until cancelled."""
        while True:
            if leads():
                await self.record_changes()
            await asyncio.sleep(interval_s)

    async def record_changes(self) -> None:
        """Ask every mission once, and record what differs from the answer before."""
        missions = [one for one in self._view.list_missions() if not one.deleted]
        await asyncio.gather(*(self._ask(mission) for mission in missions))
        for gone in self._known.keys() - {mission.key for mission in missions}:
            del self._known[gone]

    async def _ask(self, mission: Mission) -> None:
        try:
            listed = await self._stub(mission).ListAdapters(
                mission_pb2.ListAdaptersRequest(), timeout=_TIMEOUT_S, metadata=self._metadata()
            )
        except grpc.RpcError as err:  # its pods start, or are away: readiness tells that
            _LOG.debug("adapters not listed", mission=mission.key, reason=str(err)[:200])
            return
        refused = {one.name: one.reason for one in listed.rejected}
        before = self._known.get(mission.key, {})
        self._known[mission.key] = refused
        await self._record(mission, before, refused)

    async def _record(
        self, mission: Mission, before: Mapping[str, str], refused: Mapping[str, str]
    ) -> None:
        for name, reason in refused.items():
            if before.get(name) != reason:
                note = f"adapter {name}: {reason}"
                await events.record(self._api, mission, "AdapterRejected", note, warning=True)
        for name in sorted(before.keys() - refused.keys()):
            note = f"adapter {name}: no longer refused"
            await events.record(self._api, mission, "AdapterAccepted", note)
