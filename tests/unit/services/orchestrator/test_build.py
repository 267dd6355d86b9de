"""Wiring of the orchestrator on one machine; a cluster's is covered by the integration tests."""

from pathlib import Path

from bem_fleet.services.orchestrator.build import build
from bem_fleet.services.orchestrator.servicer import SERVICE, STATUS
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bemfleet.fleet.v1 import fleet_pb2 as pb
from bemfleet.fleet.v1 import fleet_pb2_grpc as rpc
from fleet.clients import open_channel, wait_ready
from fleet.files import write_json_atomic
from fleet.server import start

from tests.unit.services.orchestrator.missions import CRD


async def test_one_machine_needs_no_cluster(tmp_path: Path) -> None:
    """With a folder of missions the service answers, leads, and has no GPUs."""
    folder = tmp_path / "missions"
    folder.mkdir()
    write_json_atomic(folder / "any.json", {"metadata": {"name": "any"}, "spec": {}})
    settings = OrchestratorSettings(
        address=f"unix:{tmp_path}/o.sock", missions_dir=folder, mission_crd=CRD, drain_s=0
    )
    running = await start(settings, build, STATUS)
    try:
        async with open_channel(running.address) as channel:
            await wait_ready(channel, SERVICE, 10)
            stub = rpc.FleetServiceStub(channel)
            status = await stub.GetFleetStatus(pb.GetFleetStatusRequest())
    finally:
        await running.stop()

    assert (status.leader, status.gpus, sum(status.missions.values())) == (True, 0, 1)
