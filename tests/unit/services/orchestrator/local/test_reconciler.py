"""Local reconciler over files, with real health of a server."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
from bem_fleet.services.orchestrator.canary_analysis import CanaryAnalysisRunner
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.local.reconciler import LocalReconciler
from bem_fleet.services.orchestrator.mission import COMMAND, Mission
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.files import write_json_atomic
from fleet.testing import free_port
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.unit.services.orchestrator.missions import SCHEMA


class Machine:
    """A reconciler over one mission in a folder."""

    def __init__(self, folder: Path) -> None:
        spec = {"model": "qa", "grpcService": "any.Service"}
        write_json_atomic(folder / "any.json", {"metadata": {"name": "any"}, "spec": spec})
        self.files = MissionFiles(folder, SCHEMA, "here")
        self.address = f"127.0.0.1:{free_port()}"
        settings = OrchestratorSettings(
            mission_address=self.address, analysis_interval_s=0.1, canary_resync_s=0.05
        )
        self.analysis = CanaryAnalysisRunner(settings, self.files, self.files.changed.set)
        self.reconciler = LocalReconciler(self.files, self.analysis, settings)

    @property
    def mission(self) -> Mission:
        """The mission as it is now."""
        (mission,) = self.files.list_missions()
        return mission

    async def until(self, look: Callable[[Mission], bool]) -> Mission:
        """Return the mission as soon as it is as wanted."""
        changed = asyncio.Event()
        self.files.listeners.add(changed)
        async with asyncio.timeout(10):
            while not look(self.mission):
                changed.clear()
                await changed.wait()
        return self.mission


async def test_a_canary_starts_waits_and_is_aborted(tmp_path: Path) -> None:
    """Without its adapter it gets no weight; the command ends it and is removed."""
    machine = Machine(tmp_path)
    task = asyncio.create_task(machine.reconciler.run())
    await machine.files.merge_patch(machine.mission.path, {"spec": {"canary": {"model": "v2"}}})
    started = await machine.until(lambda m: m.canary_status.state.phase == "Starting")
    annotation = {"metadata": {"annotations": {COMMAND: "abort"}}}
    await machine.files.merge_patch(machine.mission.path, annotation)
    ended = await machine.until(lambda m: m.canary_status.state.phase == "RolledBack")
    await machine.until(lambda m: not m.command)
    task.cancel()
    await machine.analysis.close()

    assert started.canary_status.state.weight == 0
    assert ended.canary_status.state.reason == "aborted by a person"
    kept = MissionFiles(tmp_path, SCHEMA, "here").get_mission("here/any")
    assert kept is not None
    assert kept.canary_status.state == ended.canary_status.state


async def test_the_phase_is_the_missions_health(tmp_path: Path) -> None:
    """A mission that does not serve is pending, and one that does is running."""
    machine = Machine(tmp_path)
    task = asyncio.create_task(machine.reconciler.watch_health())
    away = await machine.until(lambda m: m.status.get("phase") == "Pending")
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(machine.address)
    await server.start()
    await servicer.set("any.Service", health_pb2.HealthCheckResponse.SERVING)
    there = await machine.until(lambda m: m.status.get("phase") == "Running")
    task.cancel()
    await server.stop(0)
    await machine.analysis.close()

    assert (away.ready_replicas, there.ready_replicas) == (0, 1)
