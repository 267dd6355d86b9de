"""Probes of the integration graph, at missions over real sockets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from bem_fleet.services.orchestrator import edge_probes
from bem_fleet.services.orchestrator.edge_probes import HEALTHY, EdgeProbes
from bem_fleet.services.orchestrator.mission import Mission
from bemfleet.mission.v1 import mission_pb2, mission_pb2_grpc

from tests.unit.services.orchestrator.missions import mission

RUNNING = {"phase": "Running", "readyReplicas": 1}
EDGE = {"mission": "online", "interface": "PolicyUpdateInterface"}
LABELS = ("bem/router", "bem/online", "PolicyUpdateInterface")


class Described(mission_pb2_grpc.MissionServiceServicer):
    """Mission that answers whoever shows a key, and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def Describe(self, request: Any, context: Any) -> mission_pb2.DescribeResponse:  # noqa: N802, ARG002
        """Answer, or refuse a caller without a key."""
        self.calls += 1
        if "authorization" not in dict(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "give a key")
        return mission_pb2.DescribeResponse(name="any")


def healthy() -> float | None:
    """Return the exported health of the edge."""
    found = {
        sample.labels["target"]: sample.value
        for family in HEALTHY.collect()
        for sample in family.samples
    }
    return found.get(LABELS[1])


async def test_both_ends_of_an_edge_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge is healthy while both answer; what is no end is not asked."""
    monkeypatch.setattr(edge_probes, "TIMEOUT_S", 1.0)
    missions = [mission("router", RUNNING, integrates=[EDGE]), mission("online", RUNNING)]
    missions.append(mission("sep", RUNNING))
    address, servicer = f"unix:{tmp_path}/m.sock", Described()  # type: ignore[abstract]
    server = grpc.aio.server()
    mission_pb2_grpc.add_MissionServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    view: Any = SimpleNamespace(list_missions=lambda: missions)
    key: list[tuple[str, str]] = [("authorization", "Bearer bem_o")]
    async with (
        grpc.aio.insecure_channel(address) as channel,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/nothing.sock") as closed,
    ):
        gone: set[str] = set()

        def stub(one: Mission) -> mission_pb2_grpc.MissionServiceAsyncStub:
            used = closed if one.name in gone else channel
            return mission_pb2_grpc.MissionServiceStub(used)

        probes = EdgeProbes(view, stub, lambda: tuple(key))
        await probes.probe()
        well = (dict(probes.problems), healthy(), servicer.calls)
        gone.add("online")
        await probes.probe()
        away = (set(probes.problems), healthy())
        gone.clear()
        key.clear()
        await probes.probe()
        refused = (dict(probes.problems), healthy())
        missions.clear()
        await probes.probe()
    await server.stop(None)

    assert well == ({}, 1.0, 2)
    assert away == ({"bem/online"}, 0.0)
    assert refused[0]["bem/router"] == "UNAUTHENTICATED: give a key"
    assert refused[1] == 0.0
    assert healthy() is None
