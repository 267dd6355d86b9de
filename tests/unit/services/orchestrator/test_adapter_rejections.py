"""Events about refused adapters, at a real API server and a mission that a test scripts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from bem_fleet.services.orchestrator.adapter_rejections import AdapterRejections
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.mission import read_mission
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import MISSIONS

pytestmark = [pytest.mark.slow, needs_kubernetes()]
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


class Refusing(mission_pb2_grpc.MissionServiceServicer):
    """Mission that refuses the adapters of ``refused``."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}

    async def ListAdapters(self, request: Any, context: Any) -> mission_pb2.ListAdaptersResponse:  # noqa: N802, ARG002
        """List what is refused."""
        rejected = [
            mission_pb2.RejectedAdapter(name=name, reason=reason)
            for name, reason in self.refused.items()
        ]
        return mission_pb2.ListAdaptersResponse(rejected=rejected)


def events_about(plane: ControlPlane, name: str) -> list[tuple[str, str, str]]:
    """Return type, reason and note of the Events about a mission, in order."""
    items = [e for e in plane.call("GET", EVENTS)["items"] if e["regarding"]["name"] == name]
    items.sort(key=lambda event: str(event["eventTime"]))
    return [(event["type"], event["reason"], event["note"]) for event in items]


async def test_each_change_is_one_event(plane: ControlPlane, api: KubeApi, tmp_path: Path) -> None:
    """A refusal is told once, a new reason again, and its end; an absence changes nothing."""
    one = read_mission(plane.call("POST", MISSIONS, mission_object("refusing")))
    address, servicer = f"unix:{tmp_path}/m.sock", Refusing()  # type: ignore[abstract]
    server = grpc.aio.server()
    mission_pb2_grpc.add_MissionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    view: Any = SimpleNamespace(list_missions=lambda: [one])
    async with grpc.aio.insecure_channel(address) as channel:
        stub = mission_pb2_grpc.MissionServiceStub(channel)
        rejections = AdapterRejections(api, view, lambda _: stub, lambda: ())
        for refused in ({"qa": "rank: 3"}, {"qa": "rank: 3"}, {"qa": "rank: 5", "b": "card"}, {}):
            servicer.refused = refused
            await rejections.record_changes()
        await server.stop(0)
        await rejections.record_changes()
    plane.call("DELETE", f"{MISSIONS}/refusing")

    assert events_about(plane, "refusing") == [
        ("Warning", "AdapterRejected", "adapter qa: rank: 3"),
        ("Warning", "AdapterRejected", "adapter qa: rank: 5"),
        ("Warning", "AdapterRejected", "adapter b: card"),
        ("Normal", "AdapterAccepted", "adapter b: no longer refused"),
        ("Normal", "AdapterAccepted", "adapter qa: no longer refused"),
    ]
