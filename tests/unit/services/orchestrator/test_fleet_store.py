"""Both fleet stores keep the same promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.fleet_store import FleetStore
from bem_fleet.services.orchestrator.kube.api import InvalidError, ObjectNotFoundError, connect
from bem_fleet.services.orchestrator.local.mission_files import MissionFiles
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.files import write_json_atomic

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import MISSIONS
from tests.unit.services.orchestrator.missions import SCHEMA

NAMES = ("store-b", "store-a")


@pytest.fixture
def files(tmp_path: Path) -> FleetStore:
    """Missions in files."""
    for name in NAMES:
        spec = {"model": "qa"}
        write_json_atomic(tmp_path / f"{name}.json", {"metadata": {"name": name}, "spec": spec})
    return MissionFiles(tmp_path, SCHEMA, "default")


@pytest.fixture
async def cluster(plane: ControlPlane) -> AsyncIterator[FleetStore]:
    """Missions of a cluster."""
    for name in NAMES:
        plane.call("POST", MISSIONS, mission_object(name, model="qa"))
    api = await connect(str(plane.kubeconfig))
    view = ClusterView(api, OrchestratorSettings())
    informers = [asyncio.create_task(informer.run()) for informer in view.informers]
    await asyncio.wait_for(view.synced(), 30)
    yield view
    for task in informers:
        task.cancel()
    await asyncio.gather(*informers, return_exceptions=True)
    await api.close()
    for name in NAMES:
        plane.call("DELETE", f"{MISSIONS}/{name}")


async def keeps_its_promises(store: FleetStore) -> None:
    """Check what the protocol says."""
    listed = [m.key for m in store.list_missions() if m.name in NAMES]
    assert listed == ["default/store-a", "default/store-b"]
    assert store.get_mission("default/absent") is None
    mission = store.get_mission("default/store-a")
    assert mission is not None
    assert store.gpu_nodes() == []

    changed = asyncio.Event()
    store.listeners.add(changed)
    patched = await store.merge_patch(mission.path, {"spec": {"canary": {"model": "qa-v2"}}})
    await asyncio.wait_for(changed.wait(), 30)
    assert patched["spec"]["canary"]["readySeconds"] == 600
    after = store.get_mission("default/store-a")
    assert after is not None
    assert after.canary is not None
    assert after.canary.model == "qa-v2"

    with pytest.raises(ObjectNotFoundError):
        await store.merge_patch(mission.path.replace("store-a", "absent"), {"spec": {}})
    with pytest.raises(InvalidError, match="priority"):
        await store.merge_patch(mission.path, {"spec": {"priority": "urgent"}})


async def test_files(files: FleetStore) -> None:
    """Missions in files are listed, patched, validated and told of."""
    await keeps_its_promises(files)


@pytest.mark.slow
@needs_kubernetes()
async def test_cluster(cluster: FleetStore) -> None:
    """Missions of a cluster are listed, patched, validated and told of."""
    await keeps_its_promises(cluster)
