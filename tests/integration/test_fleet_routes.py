"""Fleet routes of the gateway: snapshots, their stream, and what operators do there."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from bemfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from fleet.errors import FailedPreconditionError
from fleet.server import App, start
from fleet.settings import FleetSettings
from fleet.testing import RedisServer
from google.protobuf import json_format

from tests.integration.tracks import Script, ScriptedMission, gateway, mission, socket_of
from tests.integration.validations import compare, validation
from tests.support.access_keys import AccessKeys, write_access_keys

CANARY = pb.Canary(
    id="c1",
    phase="Canary",
    candidate="qa-v2",
    weight=20,
    pairs=70,
    evidence=[pb.CanaryEvidence(metric="errors", gain=0.1, p_shown=0.01, p_worse=1, pairs=70)],
    analysis={"alpha": 0.05},
)


class Orchestrator(rpc.FleetServiceServicer):
    """An orchestrator with one mission, which remembers its commands."""

    def __init__(self) -> None:
        self.started: list[pb.StartCanaryRequest] = []
        self.steered: list[pb.SteerCanaryRequest] = []

    async def ListMissions(self, request: Any, context: Any) -> pb.ListMissionsResponse:  # noqa: N802, ARG002
        """List the mission with its canary."""
        return pb.ListMissionsResponse(
            missions=[pb.Mission(name="router", phase="Running", canary=CANARY)]
        )

    async def GetPlan(self, request: Any, context: Any) -> pb.GetPlanResponse:  # noqa: N802, ARG002
        """Return a plan with an unmet request."""
        unmet = pb.Assignment(mission="default/sep", unmet_reason="Conflict", unmet_message="full")
        return pb.GetPlanResponse(assignments=[unmet])

    async def GetIntegrationGraph(  # noqa: N802 - the name is the proto's
        self,
        request: Any,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.GetIntegrationGraphResponse:
        """Return a graph without calls."""
        return pb.GetIntegrationGraphResponse(missions=["default/router"])

    async def GetFleetStatus(self, request: Any, context: Any) -> pb.GetFleetStatusResponse:  # noqa: N802, ARG002
        """Return totals."""
        return pb.GetFleetStatusResponse(gpus=5, gpus_assigned=4)

    async def WatchRoutes(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802, ARG002
        """Stream no routes."""
        yield pb.WatchRoutesResponse()
        await asyncio.Event().wait()

    async def StartCanary(self, request: Any, context: Any) -> pb.StartCanaryResponse:  # noqa: N802, ARG002
        """Remember the canary; refuse the stable one."""
        if request.canary["model"] == "qa":
            raise FailedPreconditionError("canary: is the stable model itself")
        self.started.append(request)
        return pb.StartCanaryResponse(id="c2")

    async def SteerCanary(self, request: Any, context: Any) -> pb.SteerCanaryResponse:  # noqa: N802, ARG002
        """Remember the command."""
        self.steered.append(request)
        return pb.SteerCanaryResponse()


class Sidecar(safety_pb2_grpc.SafetyServiceServicer):
    """The part of a sidecar that keeps a strength."""

    async def SetStrength(self, request: Any, context: Any) -> safety_pb2.SetStrengthResponse:  # noqa: N802, ARG002
        """Return what was asked for."""
        return safety_pb2.SetStrengthResponse(value=request.value, floor=request.floor)


class Door:
    """A gateway in front of a mission, validation and an orchestrator."""

    def __init__(self, http: httpx.AsyncClient, keys: AccessKeys) -> None:
        self.http, self.keys = http, keys
        self.orchestrator = Orchestrator()  # type: ignore[abstract]

    async def snapshot(self, name: str) -> dict[str, Any]:
        """Return a snapshot with a key."""
        answer = await self.http.get("/v1/fleet", headers=self.keys.headers(name))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, path: str, body: Any, name: str = "operator") -> httpx.Response:
        """Post with a key."""
        return await self.http.post(path, json=body, headers=self.keys.headers(name))


@pytest.fixture
async def door(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Door]:
    """The gateway and what is behind it; a second mission is away."""
    keys = write_access_keys(tmp_path / "keys", {"name": "web"})
    results = tmp_path / "results"
    results.mkdir()
    (results / "gates.json").write_text("[]")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = Door(httpx.AsyncClient(), keys)

        async def serve_fleet(_settings: FleetSettings, app: App) -> None:
            rpc.add_FleetServiceServicer_to_server(made.orchestrator, app.server)

        sidecar = Sidecar()  # type: ignore[abstract]

        async def serve_safety(_settings: FleetSettings, app: App) -> None:
            safety_pb2_grpc.add_SafetyServiceServicer_to_server(sidecar, app.server)

        fleet, safety = socket_of(folder, "fleet"), socket_of(folder, "safety")
        running = [
            await start(FleetSettings(address=address, drain_s=0), serve, {})
            for address, serve in ((fleet, serve_fleet), (safety, serve_safety))
        ]
        async with (
            validation(folder, redis_server) as (stub, judge),
            mission(socket_of(folder, "router"), ScriptedMission({"": Script(), "qa": Script()})),
            gateway(
                redis_server.url,
                missions={"router": socket_of(folder, "router"), "sep": safety},
                validation_address=judge.address,
                fleet_address=fleet,
                keys_file=keys.file,
                service_key_file=keys.path("service"),
                metrics_pages={"away": "127.0.0.1:1/metrics"},
                prometheus_address="127.0.0.1:1",
                results_folder=results,
            ) as http,
        ):
            await made.http.aclose()
            made.http = http
            await stub.Compare(compare("c1"), metadata=keys.metadata("operator"))
            yield made
        for one in running:
            await one.stop()


async def test_operator_sees_every_part(door: Door) -> None:
    """Missions, canaries with their evidence, claims and notices; what fails has a reason."""
    seen = await door.snapshot("operator")
    missions = {one["name"]: one for one in seen["missions"]["data"]}
    processes = {one["name"]: one for one in seen["metrics"]["data"]["processes"]}
    canary = seen["control"]["data"]["missions"][0]["canary"]

    assert seen["caller"] == {"name": "operator", "role": "operator"}
    assert missions["router"]["serving"]
    assert [one["name"] for one in missions["router"]["models"]] == ["base", "qa"]
    assert not missions["sep"]["serving"]
    assert missions["sep"]["reason"]
    assert canary["evidence"][0]["p_shown"] == 0.01
    assert seen["control"]["data"]["status"]["gpus"] == 5
    assert seen["claims"]["data"][0]["claim"] == "c1"
    assert seen["claims"]["data"][0]["measured"]["ci_low"] > 0
    assert processes["away"]["reason"]
    assert processes["gateway"]["points"]
    assert seen["sessions"]["state"] == "absent"
    assert seen["alerts"]["state"] == "unavailable"
    assert {(one["kind"], one["subject"]) for one in seen["notices"]} == {
        ("health", "sep"),
        ("health", "away"),
        ("health", "prometheus"),
        ("resource", "default/sep"),
    }


async def test_user_sees_missions_and_metrics_alone(door: Door) -> None:
    """Canaries and claims are an operator's, as over gRPC; nobody without a key sees anything."""
    seen = await door.snapshot("web")

    assert (seen["missions"]["state"], seen["metrics"]["state"]) == ("ok", "ok")
    assert (seen["control"]["state"], seen["claims"]["state"]) == ("refused", "refused")
    assert "operator" in seen["control"]["reason"]
    assert (await door.http.get("/v1/fleet")).status_code == 401
    assert (await door.http.get("/v1/fleet/events")).status_code == 401


async def test_services_that_are_away_hide_nothing_else(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Their parts are unavailable with a reason, and everything else is there."""
    keys = write_access_keys(tmp_path / "keys")
    with tempfile.TemporaryDirectory() as name:
        address = socket_of(Path(name), "router")
        async with (
            mission(address, ScriptedMission()),
            gateway(
                redis_server.url,
                missions={"router": address, "memory": "127.0.0.1:1"},
                validation_address="127.0.0.1:1",
                fleet_address="127.0.0.1:1",
                keys_file=keys.file,
            ) as http,
        ):
            seen = await Door(http, keys).snapshot("operator")

    assert seen["missions"]["data"][0]["serving"]
    assert seen["control"]["state"] == seen["claims"]["state"] == "unavailable"
    assert seen["control"]["reason"].startswith("the orchestrator: ")
    assert seen["sessions"]["state"] == "unavailable"
    assert seen["sessions"]["reason"].startswith("mission memory: ")
    assert seen["alerts"]["state"] == "absent"


async def test_events_repeat_the_snapshot_with_new_points_only(door: Door) -> None:
    """A point of a process is sent once."""
    times: list[list[int]] = []
    async with door.http.stream(
        "GET", "/v1/fleet/events", headers=door.keys.headers("web")
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line:
                event = json.loads(line.removeprefix("data: "))
                points = event["metrics"]["data"]["processes"][-1]["points"]
                times.append([one["unix_ms"] for one in points])
            if len(times) == 3:
                break
    flat = [time for event in times for time in event]

    assert len(flat) >= 3
    assert flat == sorted(set(flat))


async def test_stored_results_are_read(door: Door) -> None:
    """The catalogue's gates, none of which is measured here."""
    answer = await door.http.get("/v1/fleet/results", headers=door.keys.headers("web"))

    assert answer.json()["reason"] == ""
    assert len(answer.json()["gates"]) > 30


async def test_operator_starts_and_steers_a_canary(door: Door) -> None:
    """What the body says reaches the orchestrator; its refusal keeps its words."""
    steps = [{"weight": 10, "seconds": 60}]
    begun = await door.post("/v1/fleet/canaries/router", {"model": "qa-v2", "steps": steps})
    paused = await door.post("/v1/fleet/canaries/router/pause", {})
    refused = await door.post("/v1/fleet/canaries/router", {"model": "qa"})
    (canary,) = door.orchestrator.started
    (command,) = door.orchestrator.steered

    assert begun.json()["id"] == "c2"
    assert (canary.name, canary.canary["model"]) == ("router", "qa-v2")
    assert json_format.MessageToDict(canary.canary)["steps"] == [{"weight": 10, "seconds": 60}]
    assert paused.status_code == 200
    assert command.command == pb.CANARY_COMMAND_PAUSE
    assert (refused.status_code, "stable model" in refused.text) == (409, True)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/fleet/canaries/router", {}, 400),
        ("/v1/fleet/canaries/router", {"model": "x", "shadow": 101}, 400),
        ("/v1/fleet/canaries/router/destroy", {}, 400),
        ("/v1/fleet/safety/router", {"value": 1.5}, 400),
        ("/v1/fleet/safety/nobody", {"value": 1}, 404),
    ],
)
async def test_wrong_commands_are_refused_by_name(
    door: Door, path: str, body: Any, status: int
) -> None:
    """Nothing reaches the orchestrator."""
    answer = await door.post(path, body)

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] or status == 404
    assert door.orchestrator.started == door.orchestrator.steered == []


async def test_safety_strength_is_an_operators(door: Door) -> None:
    """The answer says what is in force."""
    body = {"value": 0.75, "floor": 0.25}
    done = await door.post("/v1/fleet/safety/sep", body)
    refused = await door.post("/v1/fleet/safety/sep", body, "web")

    assert (done.json()["value"], done.json()["floor"]) == (0.75, 0.25)
    assert refused.status_code == 403
