"""FleetService: reads from the fleet store, writes canary specifications and commands to it."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from bem_fleet.services.orchestrator import responses
from bem_fleet.services.orchestrator.canary.spec import canary_digest
from bem_fleet.services.orchestrator.fleet_store import FleetStore
from bem_fleet.services.orchestrator.integration_graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.kube.api import ConflictError, InvalidError, KubeError
from bem_fleet.services.orchestrator.mission import COMMAND, Mission
from bem_fleet.services.orchestrator.routes import AddressResolver, all_routes
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusTable,
)
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from grpc import aio

SERVICE = pb.DESCRIPTOR.services_by_name["FleetService"].full_name
STATUS: StatusTable = {
    ConflictError: grpc.StatusCode.ABORTED,
    InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    KubeError: grpc.StatusCode.UNAVAILABLE,
}
_COMMANDS = {
    pb.CANARY_COMMAND_PAUSE: "pause",
    pb.CANARY_COMMAND_RESUME: "resume",
    pb.CANARY_COMMAND_PROMOTE: "promote",
    pb.CANARY_COMMAND_ABORT: "abort",
}
Context = aio.ServicerContext


class FleetServicer(rpc.FleetServiceServicer):
    """Serves FleetService on any replica.

    Args:
        store: The missions and GPUs of the fleet.
        namespace: Namespace of requests that name none.
        address: Returns the address of a mission's Service.
        is_leader: Returns whether this replica reconciles.
        unanswered: Returns why missions did not answer their last probe, by ``namespace/name``.
    """

    def __init__(
        self,
        store: FleetStore,
        namespace: str,
        address: AddressResolver,
        is_leader: Callable[[], bool],
        unanswered: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._store, self._namespace, self._address = store, namespace, address
        self._is_leader, self._unanswered = is_leader, unanswered
        self._watches_ended = False

    async def end_watches(self) -> None:
        """End the streams of routes; their clients ask another replica, or this one's successor."""
        self._watches_ended = True
        for changed in self._store.listeners:  # wakes each stream, as a change does
            changed.set()

    async def ListMissions(
        self,
        request: pb.ListMissionsRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.ListMissionsResponse:
        """List the missions."""
        missions = [
            m for m in self._store.list_missions() if request.namespace in ("", m.namespace)
        ]
        return pb.ListMissionsResponse(missions=[responses.mission_message(m) for m in missions])

    async def GetMission(
        self,
        request: pb.GetMissionRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetMissionResponse:
        """Return one mission."""
        mission = self._get(request.namespace, request.name)
        return pb.GetMissionResponse(mission=responses.mission_message(mission))

    async def GetPlan(
        self,
        request: pb.GetPlanRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetPlanResponse:
        """Return GPU nodes and assignments from the missions' status."""
        return responses.plan_response(self._store.list_missions(), self._store.gpu_nodes())

    async def StartCanary(
        self,
        request: pb.StartCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.StartCanaryResponse:
        """Write ``spec.canary`` as ``kubectl patch`` would."""
        mission = self._get(request.namespace, request.name)
        canary = _canary_fields(request.canary)
        if not (canary.get("image") or canary.get("model")):
            raise InvalidArgumentError(
                "canary", "nothing to try; set exactly one of image or model"
            )
        identity = canary_digest(canary)
        state = mission.canary_status.state
        if not state.phase.is_final:
            raise FailedPreconditionError(
                f"mission {mission.key} already has a canary in progress ({state.phase}); "
                "abort it first"
            )
        if identity == state.id:
            raise FailedPreconditionError(
                f"canary: the same canary has ended before ({state.phase}); "
                "raise attempt to try it again"
            )
        # A merge patch keeps what it does not name: null the fields of an earlier canary.
        old = mission.raw["spec"].get("canary") or {}
        body = {"spec": {"canary": {**dict.fromkeys(old), **canary}}}
        await self._store.merge_patch(mission.path, body)
        return pb.StartCanaryResponse(id=identity)

    async def SteerCanary(
        self,
        request: pb.SteerCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.SteerCanaryResponse:
        """Write the annotation as ``kubectl annotate`` would."""
        if request.command not in _COMMANDS:
            known = ", ".join(_COMMANDS.values())
            raise InvalidArgumentError("command", f"unknown command; set one of {known}")
        mission = self._get(request.namespace, request.name)
        if mission.canary_status.state.phase.is_final:
            raise FailedPreconditionError(
                f"mission {mission.key} has no canary in progress; start one first"
            )
        body = {"metadata": {"annotations": {COMMAND: _COMMANDS[request.command]}}}
        await self._store.merge_patch(mission.path, body)
        return pb.SteerCanaryResponse()

    async def GetIntegrationGraph(
        self,
        request: pb.GetIntegrationGraphRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetIntegrationGraphResponse:
        """Return the integration graph."""
        missions = self._store.list_missions()
        return responses.graph_response(CrossMissionIntegrator(missions, self._unanswered()))

    async def GetFleetStatus(
        self,
        request: pb.GetFleetStatusRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetFleetStatusResponse:
        """Return the totals of the fleet."""
        missions, nodes = self._store.list_missions(), self._store.gpu_nodes()
        return responses.fleet_status_response(
            missions, nodes, leader=self._is_leader(), unanswered=self._unanswered()
        )

    async def WatchRoutes(
        self,
        request: pb.WatchRoutesRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        """Stream the routes now and after every change."""
        changed = asyncio.Event()
        self._store.listeners.add(changed)
        last = None
        try:
            while not self._watches_ended:
                # Cleared before reading: a change during the yield below sets it again.
                changed.clear()
                routes = all_routes(self._store.list_missions(), self._address)
                if routes != last:
                    last = routes
                    yield routes
                await changed.wait()
        finally:
            self._store.listeners.discard(changed)

    def _get(self, namespace: str, name: str) -> Mission:
        key = f"{namespace or self._namespace}/{name}"
        mission = self._store.get_mission(key)
        if mission is None:
            known = ", ".join(m.key for m in self._store.list_missions()) or "none"
            raise NotFoundError(f"there is no mission {key[:120]!r}; missions: {known[:400]}")
        return mission


def _canary_fields(canary: Struct) -> dict[str, Any]:
    """Return the fields of ``spec.canary``.

    Raises:
        InvalidArgumentError: A number is infinite or not a number, or a value has no kind.
    """
    try:
        fields: dict[str, Any] = _restore_integers(json_format.MessageToDict(canary))
    except ValueError as err:
        raise InvalidArgumentError(
            "canary", f"has a value that JSON cannot hold: {err}; use finite numbers"
        ) from err
    return fields


def _restore_integers(value: Any) -> Any:
    """Return a Struct's value with whole numbers as ``int``: a Struct has floats only."""
    if isinstance(value, dict):
        return {key: _restore_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
