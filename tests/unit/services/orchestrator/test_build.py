"""Wiring of the orchestrator on one machine; a cluster's is covered by the integration tests."""

import asyncio
from pathlib import Path

from bem_fleet.services.orchestrator.build import build
from bem_fleet.services.orchestrator.servicer import SERVICE, STATUS
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.clients import open_channel, wait_ready
from fleet.files import write_json_atomic
from fleet.server import RunningServer, start

from tests.unit.services.orchestrator.missions import CRD


async def start_with_a_mission(folder: Path, drain_s: float) -> RunningServer:
    """Start the service with one mission in a file."""
    missions = folder / "missions"
    missions.mkdir()
    write_json_atomic(missions / "any.json", {"metadata": {"name": "any"}, "spec": {}})
    settings = OrchestratorSettings(
        address=f"unix:{folder}/o.sock", missions_dir=missions, mission_crd=CRD, drain_s=drain_s
    )
    return await start(settings, build, STATUS)


async def test_streams_of_routes_end_when_it_stops(tmp_path: Path) -> None:
    """A watching gateway does not keep a stopping orchestrator for its whole drain time."""
    running = await start_with_a_mission(tmp_path, drain_s=3600)
    async with open_channel(running.address) as channel:
        await wait_ready(channel, SERVICE, 10)
        routes = rpc.FleetServiceStub(channel).WatchRoutes(pb.WatchRoutesRequest())
        tables = [await anext(aiter(routes))]
        async with asyncio.timeout(60):
            await running.stop()
        tables += [table async for table in routes]

    assert [[route.mission for route in table.routes] for table in tables] == [["any"]]


async def test_one_machine_needs_no_cluster(tmp_path: Path) -> None:
    """With a folder of missions the service answers, leads, and has no GPUs."""
    running = await start_with_a_mission(tmp_path, drain_s=0)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, SERVICE, 10)
            stub = rpc.FleetServiceStub(channel)
            status = await stub.GetFleetStatus(pb.GetFleetStatusRequest())
    finally:
        await running.stop()

    assert (status.leader, status.gpus, sum(status.missions.values())) == (True, 0, 1)
