"""An orchestrator and a mission with its sidecar that answer commands with fixed messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from bemfleet.fleet.v1 import fleet_pb2 as fleet
from bemfleet.fleet.v1 import fleet_pb2_grpc as fleet_rpc
from bemfleet.mission.v1 import mission_pb2 as mission
from bemfleet.mission.v1 import mission_pb2_grpc as mission_rpc
from bemfleet.online.v1 import online_pb2 as online
from bemfleet.online.v1 import online_pb2_grpc as online_rpc
from bemfleet.safety.v1 import safety_pb2 as safety
from bemfleet.safety.v1 import safety_pb2_grpc as safety_rpc

_CANARY = fleet.Canary(candidate="tickets", phase="Canary", weight=10)


class CannedFleet(
    fleet_rpc.FleetServiceServicer,
    mission_rpc.MissionServiceServicer,
    safety_rpc.SafetyServiceServicer,
    online_rpc.OnlineServiceServicer,
):
    """Answers what the commands ask.

    Args:
        phase: Phase of the mission ``router``.

    Attributes:
        keys: Value of ``authorization`` of each call.
    """

    def __init__(self, phase: str = "Running") -> None:
        self.keys: list[str] = []
        self._phase = phase

    def ListMissions(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return one mission with a canary, and one without."""
        del request
        self._note(context)
        condition = fleet.Condition(type="Ready", status="False", message="1 of 2 pods")
        router = fleet.Mission(
            name="router",
            phase=self._phase,
            priority="high",
            replicas=2,
            ready_replicas=1,
            canary=_CANARY,
            conditions=[condition],
        )
        return fleet.ListMissionsResponse(
            missions=[router, fleet.Mission(name="sep", phase="Stopped")]
        )

    def GetFleetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return totals."""
        del request, context
        return fleet.GetFleetStatusResponse(gpus=4, gpus_assigned=3, canaries=1)

    def GetIntegrationGraph(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return one edge that works and one that does not."""
        del request, context
        works = fleet.Edge(to="bem/online", interface="PolicyUpdate", healthy=True)
        fails = fleet.Edge(to="bem/memory", interface="MemoryRouting", reason="no pod is ready")
        for edge in (works, fails):
            setattr(edge, "from", "bem/router")
        return fleet.GetIntegrationGraphResponse(missions=["bem/router"], edges=[works, fails])

    def GetPlan(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return one node, and a request that is not met."""
        del request, context
        node = fleet.GpuNode(name="n1", product="H100", memory_gib=80, gpus=2, assigned=1)
        unmet = fleet.Assignment(mission="bem/router", gpus=1, pods=2, unmet_message="no GPU left")
        unmet.placed["n1"] = 1
        return fleet.GetPlanResponse(nodes=[node], assignments=[unmet])

    def Describe(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return a mission with one method."""
        del request, context
        method = mission.MethodDescription(
            name="/bemfleet.router.v1.RouterService/Generate",
            server_streaming=True,
            model_field="model",
            text_fields=["prompt"],
        )
        return mission.DescribeResponse(
            name="router", base_model="tiny", methods=[method], warnings=["no safety adapter"]
        )

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Withhold what contains ``bad``."""
        del context
        bad = "bad" in request.text
        score = safety.CategoryScore(
            category="toxicity", constraint="harmlessness", score=0.9 * bad, violated=bad
        )
        action = safety.ACTION_FILTER if bad else safety.ACTION_ALLOW
        return safety.CheckResponse(action=action, scores=[score], overall=0.9 * bad, policy="v1")

    def SetStrength(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return what was asked; tenants are refused."""
        self._note(context)
        if request.tenant:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "tenant: is another's")
        return safety.SetStrengthResponse(value=request.value, floor=request.floor)

    def Status(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        """Return what became of feedback."""
        del request, context
        family = online.Family(name="dates", events=3, lacks="2 more people")
        return online.StatusResponse(feedback={"learned": 7, "dead": 1}, families=[family])

    def _note(self, context: Any) -> None:
        self.keys.append(str(dict(context.invocation_metadata()).get("authorization", "")))


@contextmanager
def canned_fleet(
    phase: str = "Running", credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[CannedFleet, int]]:
    """Serve the fleet on a free port; yields it and the port."""
    made = CannedFleet(phase)  # type: ignore[abstract] # what is not asked is UNIMPLEMENTED
    server = grpc.server(futures.ThreadPoolExecutor(2))
    fleet_rpc.add_FleetServiceServicer_to_server(made, server)
    mission_rpc.add_MissionServiceServicer_to_server(made, server)
    safety_rpc.add_SafetyServiceServicer_to_server(made, server)
    online_rpc.add_OnlineServiceServicer_to_server(made, server)
    address = "127.0.0.1:0"
    port = (
        server.add_secure_port(address, credentials)
        if credentials
        else server.add_insecure_port(address)
    )
    server.start()
    try:
        yield made, port
    finally:
        server.stop(None).wait()
