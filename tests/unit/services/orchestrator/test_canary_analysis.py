"""Canary analysis runner against real servers that a test scripts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.mission import Mission
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet.files import write_json_atomic

from tests.unit.services.orchestrator.missions import SCHEMA, canary_spec

NAME = "anything"
"""Any name will do: the runner knows no mission."""


class Servers(rpc.ValidationServiceServicer, mission_pb2_grpc.MissionServiceServicer):
    """Validation and a mission at one address."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.requests: list[pb.AnalyzeCanaryRequest] = []

    async def AnalyzeCanary(  # noqa: N802
        self,
        request: pb.AnalyzeCanaryRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.AnalyzeCanaryResponse:
        """Return evidence on two metrics."""
        self.requests.append(request)
        evidence = [
            pb.CanaryEvidence(metric="errors", mean_gain=0.01, p_shown=0.01),
            pb.CanaryEvidence(metric="latency", mean_gain=-0.02, p_shown=0.4),
        ]
        return pb.AnalyzeCanaryResponse(
            verdict=pb.CANARY_VERDICT_CONTINUE, reasons=["open"], pairs=9, evidence=evidence
        )

    async def ListAdapters(self, request: Any, context: Any) -> mission_pb2.ListAdaptersResponse:  # noqa: N802, ARG002
        """List what was loaded."""
        adapters = [mission_pb2.Adapter(name=name) for name in self.loaded]
        return mission_pb2.ListAdaptersResponse(adapters=adapters)

    async def LoadAdapter(self, request: Any, context: Any) -> mission_pb2.LoadAdapterResponse:  # noqa: N802, ARG002
        """Load any adapter."""
        self.loaded.append(request.name)
        return mission_pb2.LoadAdapterResponse()


def make_servers() -> Servers:
    """Return the servers; the stubs declare the other methods abstract."""
    return Servers()  # type: ignore[abstract]


@asynccontextmanager
async def serving(address: str, servers: Servers) -> AsyncIterator[None]:
    """Serve both services."""
    server = grpc.aio.server()
    rpc.add_ValidationServiceServicer_to_server(servers, server)
    mission_pb2_grpc.add_MissionServiceServicer_to_server(servers, server)
    server.add_insecure_port(address)
    await server.start()
    yield
    await server.stop(0)


def store(folder: Path, phase: str) -> MissionFiles:
    """Return a store with one mission whose canary is in a phase."""
    canary: dict[str, Any] = {"model": "v2", "analysis": {"errorMargin": 0.125}}
    weight = 5 if phase == "Canary" else 0
    identity = canary_spec(**canary).id
    status = {"canary": {"id": identity, "phase": phase, "model": "v2", "weight": weight}}
    body = {"metadata": {"name": NAME}, "spec": {"model": "qa", "canary": canary}, "status": status}
    (folder / "missions").mkdir()
    write_json_atomic(folder / "missions" / f"{NAME}.json", body)
    return MissionFiles(folder / "missions", SCHEMA, "here")


def runner(address: str, files: MissionFiles) -> tuple[CanaryAnalysisRunner, asyncio.Event]:
    """Return a runner that finds everything at one address, and its change event."""
    changed = asyncio.Event()
    settings = OrchestratorSettings(
        validation_address=address, mission_address=address, analysis_interval_s=0.1
    )
    return CanaryAnalysisRunner(settings, files, changed.set), changed


def the_mission(files: MissionFiles) -> Mission:
    """Return the mission."""
    (mission,) = files.list_missions()
    return mission


async def test_a_starting_canary_has_its_adapter_loaded(tmp_path: Path) -> None:
    """It is loaded once, and no verdict is asked for before it can have observations."""
    servers, address = make_servers(), f"unix:{tmp_path}/s.sock"
    files = store(tmp_path, "Starting")
    analysis, changed = runner(address, files)
    async with serving(address, servers):
        before = analysis.adapter_loaded(the_mission(files))
        task = asyncio.create_task(analysis.run())
        await asyncio.wait_for(changed.wait(), 10)
        await asyncio.sleep(0.3)  # further polls
        after = analysis.adapter_loaded(the_mission(files))
        task.cancel()
        await analysis.close()

    assert (before, after) == (False, True)
    assert servers.loaded == ["v2"]
    assert servers.requests == []


async def test_a_verdict_is_asked_for_with_the_terms_of_the_specification(tmp_path: Path) -> None:
    """All terms are in the request; the result names the metric that delays the promotion."""
    servers, address = make_servers(), f"unix:{tmp_path}/s.sock"
    servers.loaded = ["v2"]
    files = store(tmp_path, "Canary")
    analysis, changed = runner(address, files)
    async with serving(address, servers):
        task = asyncio.create_task(analysis.run())
        while analysis.latest_gate(the_mission(files)) is None:
            changed.clear()
            await asyncio.wait_for(changed.wait(), 10)
        gate = analysis.latest_gate(the_mission(files))
        task.cancel()
        await analysis.close()
    request = servers.requests[0]

    assert gate is not None
    assert (gate.verdict, gate.reasons, gate.pairs) == ("continue", "open", 9)
    assert (gate.delta, gate.p) == ("latency -0.0200", "0.4")
    assert request.terms.error_margin == 0.125
    assert (request.mission, request.canary_has_pods) == (NAME, False)
    assert len(request.terms.ListFields()) == len(request.terms.DESCRIPTOR.fields)
    assert (request.stable.model, request.canary.model) == ("qa", "v2")
    assert request.canary_id.startswith(f"here/{NAME}/")


async def test_a_mission_that_is_away_is_not_ready(tmp_path: Path) -> None:
    """What was loaded before may be gone when it comes back; the verdict stays."""
    servers, address = make_servers(), f"unix:{tmp_path}/s.sock"
    files = store(tmp_path, "Canary")
    analysis, changed = runner(address, files)
    async with serving(address, servers):
        task = asyncio.create_task(analysis.run())
        while analysis.latest_gate(the_mission(files)) is None:
            changed.clear()
            await asyncio.wait_for(changed.wait(), 10)
    async with asyncio.timeout(10):
        while True:
            if not analysis.adapter_loaded(the_mission(files)):
                break
            await asyncio.sleep(0.05)  # the server gives no event when it is gone
    gate = analysis.latest_gate(the_mission(files))
    task.cancel()
    await analysis.close()

    assert gate is not None
