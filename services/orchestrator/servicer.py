"""FleetService: what the caches hold, and the annotation that steers a canary."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
from bem_fleet.services.orchestrator import answers
from bem_fleet.services.orchestrator.canary.record import read_state
from bem_fleet.services.orchestrator.canary.spec import CanarySpec, read_canary
from bem_fleet.services.orchestrator.graph import CrossMissionIntegrator
from bem_fleet.services.orchestrator.kube.api import ConflictError, InvalidError, KubeError, Object
from bem_fleet.services.orchestrator.mission import COMMAND, Mission
from bem_fleet.services.orchestrator.routes import Address, routes_of
from bem_fleet.services.orchestrator.view import Seen
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusTable,
)
from google.protobuf import json_format
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


class Patches(Protocol):
    """Where missions are kept."""

    async def patch(self, path: str, body: Object, how: str) -> Object:
        """Patch a mission; ``KubeError`` and its subclasses if it cannot be."""
        ...


class FleetServicer(rpc.FleetServiceServicer):
    """Answers from the view.

    Args:
        api: The API server, or what is in its place.
        view: Its caches.
        namespace: Where missions are looked for if none is named.
        address: Where missions are reached.
        leads: Tells whether this replica moves canaries on.
    """

    def __init__(
        self,
        api: Patches,
        view: Seen,
        namespace: str,
        address: Address,
        leads: Callable[[], bool],
    ) -> None:
        self._api, self._view, self._namespace, self._address = api, view, namespace, address
        self._leads = leads

    async def ListMissions(
        self,
        request: pb.ListMissionsRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.ListMissionsResponse:
        """List the missions."""
        found = [m for m in self._view.missions if request.namespace in ("", m.namespace)]
        found.sort(key=lambda one: one.key)
        return pb.ListMissionsResponse(missions=[answers.mission(one) for one in found])

    async def GetMission(
        self,
        request: pb.GetMissionRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetMissionResponse:
        """Return one mission."""
        found = self._named(request.namespace, request.name)
        return pb.GetMissionResponse(mission=answers.mission(found))

    async def GetPlan(
        self,
        request: pb.GetPlanRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetPlanResponse:
        """Return nodes and assignments as the missions' status has them."""
        return answers.plan(
            sorted(self._view.missions, key=lambda m: m.key), self._view.gpu_nodes()
        )

    async def StartCanary(
        self,
        request: pb.StartCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.StartCanaryResponse:
        """Write the specification that kubectl would."""
        mission = self._named(request.namespace, request.name)
        wanted = _whole(json_format.MessageToDict(request.canary))
        canary = _read(wanted)
        state = read_state(mission.status)
        if not state.phase.is_final:
            raise FailedPreconditionError(
                f"mission {mission.key} has a canary under way ({state.phase}); abort it first"
            )
        if canary.id == state.id:
            raise FailedPreconditionError(
                f"canary: the same was tried before ({state.phase}); raise attempt to try it again"
            )
        old = mission.raw["spec"].get("canary") or {}
        body = {"spec": {"canary": {**dict.fromkeys(old), **wanted}}}
        await self._api.patch(mission.path, body, "merge")
        return pb.StartCanaryResponse(id=canary.id)

    async def SteerCanary(
        self,
        request: pb.SteerCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.SteerCanaryResponse:
        """Write the annotation that kubectl would."""
        if request.command not in _COMMANDS:
            raise InvalidArgumentError("command", f"one of {', '.join(_COMMANDS.values())} is due")
        mission = self._named(request.namespace, request.name)
        if read_state(mission.status).phase.is_final:
            raise FailedPreconditionError(f"mission {mission.key} has no canary under way")
        body = {"metadata": {"annotations": {COMMAND: _COMMANDS[request.command]}}}
        await self._api.patch(mission.path, body, "merge")
        return pb.SteerCanaryResponse()

    async def GetIntegrationGraph(
        self,
        request: pb.GetIntegrationGraphRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetIntegrationGraphResponse:
        """Return the graph."""
        return answers.graph(CrossMissionIntegrator(self._view.missions))

    async def GetFleetStatus(
        self,
        request: pb.GetFleetStatusRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GetFleetStatusResponse:
        """Sum the fleet up."""
        missions = sorted(self._view.missions, key=lambda m: m.key)
        return answers.fleet(missions, self._view.gpu_nodes(), leader=self._leads())

    async def WatchRoutes(
        self,
        request: pb.WatchRoutesRequest,  # noqa: ARG002
        context: Context[Any, Any],  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRoutesResponse]:
        """Send the routes now and at every change."""
        changed = asyncio.Event()
        self._view.listeners.add(changed)
        last = None
        try:
            while True:
                changed.clear()
                routes = routes_of(self._view.missions, self._address)
                if routes != last:
                    last = routes
                    yield routes
                await changed.wait()
        finally:
            self._view.listeners.discard(changed)

    def _named(self, namespace: str, name: str) -> Mission:
        key = f"{namespace or self._namespace}/{name}"
        found = self._view.missions.get(key)
        if found is None:
            known = ", ".join(sorted(one.key for one in self._view.missions)) or "none"
            raise NotFoundError(f"there is no mission {key[:120]!r}; missions: {known[:400]}")
        return found


def _whole(given: Any) -> Any:
    """Return what a Struct held with whole numbers as such: JSON's numbers are all floats there."""
    if isinstance(given, dict):
        return {key: _whole(value) for key, value in given.items()}
    if isinstance(given, list):
        return [_whole(value) for value in given]
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _read(wanted: Object) -> CanarySpec:
    """Read what is asked for; the schema, which comes later, says more of what is wrong."""
    try:
        canary = read_canary(wanted)
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise InvalidArgumentError("canary", f"not as spec.canary of a Mission: {err}") from err
    if canary is None or not canary.tries:
        raise InvalidArgumentError("canary", "one of image and model is due")
    return canary
