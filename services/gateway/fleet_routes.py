"""Fleet routes: the snapshot that the dashboard page shows, and what operators do there."""

from __future__ import annotations  # the typed stubs exist in the stubs only

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, Literal

from bem_fleet.services.gateway import fleet_snapshot
from bem_fleet.services.gateway.body_route import ParameterRoute
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.event_stream import EventStreamResponse
from bem_fleet.services.gateway.fleet_notices import notices
from bem_fleet.services.gateway.fleet_schema import Caller, FleetSnapshot, Part
from bem_fleet.services.gateway.metrics_collector import INTERVAL_S
from bem_fleet.services.gateway.missions import MissionClient
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import GatewayState, state_of
from bem_fleet.services.gateway.stored_results import StoredResults, read_results
from bemfleet.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from bemfleet.safety.v1 import safety_pb2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet.access import Role, principal
from fleet.clients import outgoing_metadata
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, ConfigDict, Field

routes = APIRouter(prefix="/v1/fleet", route_class=ParameterRoute)
SLOW_PART_TICKS = 5
"""Events from one reading of claims and sessions to the next."""

_TIMEOUT_S = 10.0
_COMMANDS = {
    "pause": fleet_pb2.CANARY_COMMAND_PAUSE,
    "resume": fleet_pb2.CANARY_COMMAND_RESUME,
    "promote": fleet_pb2.CANARY_COMMAND_PROMOTE,
    "abort": fleet_pb2.CANARY_COMMAND_ABORT,
}


class _FleetBody(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CanaryStep(_FleetBody):
    """Traffic step of a canary.

    Attributes:
        weight: Percent of sessions that the canary answers.
        seconds: Least time of the step, in seconds.
    """

    weight: int = Field(ge=1, le=100)
    seconds: int = Field(ge=1, le=86_400)


class CanaryBody(_FleetBody):
    """Body of ``POST /v1/fleet/canaries/{mission}``.

    Attributes:
        model: Adapter that is tried.
        shadow: Percent of stable's requests that are mirrored before the first step.
        steps: Traffic steps; None for the orchestrator's own.
        attempt: Number of this try of the same adapter.
    """

    model: str = Field(min_length=1, max_length=64)
    shadow: int | None = Field(None, ge=0, le=100)
    steps: list[CanaryStep] | None = Field(None, min_length=1, max_length=10)
    attempt: int | None = Field(None, ge=1, le=1_000_000)


class StrengthBody(_FleetBody):
    """Body of ``POST /v1/fleet/safety/{mission}``.

    Attributes:
        value: Strength of the safety adapter, 0 to 1.
        floor: Least strength that clients can ask for, 0 to 1; None keeps it.
        tenant: Tenant; empty for all without a value of their own.
    """

    value: float = Field(ge=0, le=1)
    floor: float | None = Field(None, ge=0, le=1)
    tenant: str = Field("", max_length=64)


@routes.get("")
@requires(Role.USER)
async def snapshot(request: Request) -> FleetSnapshot:
    """Return the fleet as it is now; parts for operators are refused to others."""
    state = state_of(request)
    async with state.metrics.watch():
        return await _Reader(state).read()


@routes.get("/events", response_model=FleetSnapshot)
@requires(Role.USER)
async def events(request: Request) -> Response:
    """Stream a snapshot as a server-sent event every two seconds."""
    state = state_of(request)
    is_stopping = getattr(request.app.state, "is_stopping", lambda: False)

    async def stream() -> AsyncGenerator[bytes]:
        reader = _Reader(state)
        async with state.metrics.watch():
            while not is_stopping():  # an open page would otherwise delay the end of the process
                made = await reader.read()
                yield b"data: " + made.model_dump_json().encode() + b"\n\n"
                await asyncio.sleep(INTERVAL_S)

    return EventStreamResponse(stream())


@routes.get("/results")
@requires(Role.USER)
async def results(request: Request) -> StoredResults:
    """Return the stored verdicts of the acceptance gates, and training curves."""
    return await asyncio.to_thread(read_results, state_of(request).settings.results_folder)


@routes.post("/canaries/{mission}")
@requires(Role.OPERATOR)
async def start_canary(request: Request, mission: str, body: CanaryBody) -> JSONResponse:
    """Start a canary of an adapter."""
    canary: Struct = json_format.ParseDict(body.model_dump(exclude_none=True), Struct())
    answer = await _fleet(request).StartCanary(
        fleet_pb2.StartCanaryRequest(name=mission, canary=canary),
        timeout=_TIMEOUT_S,
        metadata=outgoing_metadata(),
    )
    return JSONResponse({"object": "fleet.canary", "mission": mission, "id": answer.id})


@routes.post("/canaries/{mission}/{command}")
@requires(Role.OPERATOR)
async def steer_canary(
    request: Request, mission: str, command: Literal["pause", "resume", "promote", "abort"]
) -> JSONResponse:
    """Pause, resume, promote or abort a canary."""
    await _fleet(request).SteerCanary(
        fleet_pb2.SteerCanaryRequest(name=mission, command=_COMMANDS[command]),
        timeout=_TIMEOUT_S,
        metadata=outgoing_metadata(),
    )
    return JSONResponse({"object": "fleet.canary", "mission": mission, "command": command})


@routes.post("/safety/{mission}")
@requires(Role.OPERATOR)
async def set_strength(request: Request, mission: str, body: StrengthBody) -> JSONResponse:
    """Set the strength of a mission's safety adapter, and its floor."""
    answer = await _mission(request, mission).safety.SetStrength(
        safety_pb2.SetStrengthRequest(**body.model_dump(exclude_none=True)),
        timeout=_TIMEOUT_S,
        metadata=outgoing_metadata(),
    )
    return JSONResponse(
        {
            "object": "fleet.safety_strength",
            "mission": mission,
            "value": round(answer.value, 6),
            "floor": round(answer.floor, 6),
        }
    )


class _Reader:
    """Reads snapshots for one stream: claims and sessions less often, points of metrics once."""

    def __init__(self, state: GatewayState) -> None:
        self._state, self._tick, self._seen_ms = state, 0, 0
        self._claims: Part[list[dict[str, Any]]] = Part(state="absent")
        self._sessions: Part[list[dict[str, Any]]] = Part(state="absent")

    async def read(self) -> FleetSnapshot:
        """Return the next snapshot."""
        state = self._state
        if self._tick % SLOW_PART_TICKS == 0:
            self._claims, self._sessions = await asyncio.gather(
                fleet_snapshot.claims(state), fleet_snapshot.sessions(state)
            )
        self._tick += 1
        missions, control, alerts = await asyncio.gather(
            fleet_snapshot.served_missions(state),
            fleet_snapshot.control(state),
            fleet_snapshot.alerts(state),
        )
        metrics = state.metrics.metrics(self._seen_ms)
        caller = principal.get()
        self._seen_ms = max(
            (one.points[-1].unix_ms for one in metrics.processes if one.points),
            default=self._seen_ms,
        )
        made = FleetSnapshot(
            unix_ms=int(time.time() * 1000),
            caller=Caller(name=caller.name, role=caller.role.label),
            missions=missions,
            control=control,
            claims=self._claims,
            sessions=self._sessions,
            metrics=Part(state="ok", data=metrics),
            alerts=alerts,
        )
        return made.model_copy(update={"notices": notices(made)})


def _fleet(request: Request) -> fleet_pb2_grpc.FleetServiceAsyncStub:
    stub = state_of(request).fleet
    if stub is None:
        raise ApiError(
            404,
            "fleet: this gateway has no orchestrator; set BEM_GATEWAY_FLEET_ADDRESS",
            code="no_orchestrator",
        )
    return stub


def _mission(request: Request, name: str) -> MissionClient:
    missions = state_of(request).missions
    if name not in missions:
        raise ApiError(
            404,
            f"mission: {name[:64]!r} does not exist; missions: {', '.join(sorted(missions))}; "
            "name one of them",
            code="mission_not_found",
            param="mission",
        )
    return missions[name]
