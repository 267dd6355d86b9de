"""Events about missions at a real API server."""

import pytest
from bem_fleet.services.orchestrator import events
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.mission import read_mission
from fleet.testing import free_port

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import MISSIONS

pytestmark = [pytest.mark.slow, needs_kubernetes()]
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


async def test_an_event_is_about_its_mission(plane: ControlPlane, api: KubeApi) -> None:
    """``kubectl describe`` finds it by the mission's uid; a long note is cut."""
    one = read_mission(plane.call("POST", MISSIONS, mission_object("told")))
    await events.record(api, one, "CanaryRolledBack", "x" * 2000, warning=True)
    items = plane.call("GET", EVENTS)["items"]
    found = [item for item in items if item["regarding"]["name"] == "told"]
    plane.call("DELETE", f"{MISSIONS}/told")

    assert [(e["reason"], e["type"], len(e["note"])) for e in found] == [
        ("CanaryRolledBack", "Warning", 1000)
    ]
    assert found[0]["regarding"]["uid"] == one.raw["metadata"]["uid"]


async def test_a_lost_event_stops_nothing(plane: ControlPlane, api: KubeApi) -> None:
    """An API server that is away costs the Event, not the pass."""
    one = read_mission(plane.call("POST", MISSIONS, mission_object("silent")))
    plane.call("DELETE", f"{MISSIONS}/silent")
    api.host = f"https://127.0.0.1:{free_port()}"

    await events.record(api, one, "Running", "1 pods are ready")
