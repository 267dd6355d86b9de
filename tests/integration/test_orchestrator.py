"""The orchestrator at a real API server: GPUs, priorities, losses, kills, conflicts."""

import threading
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from bemfleet.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from fleet.testing import RedisServer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.clusters import (
    ControlPlane,
    control_plane,
    deployment,
    gpu_node,
    mission,
    needs_kubernetes,
)
from tests.integration.orchestrators import (
    DEPLOYMENTS,
    MISSIONS,
    Orchestrator,
    condition,
    make_ready,
    orchestrator,
    selector,
    status,
    until,
)

pytestmark = [pytest.mark.slow, needs_kubernetes()]
H100, RTX = "NVIDIA-H100-80GB-HBM3", "NVIDIA-GeForce-RTX-4090"
HOST = "kubernetes.io/hostname"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest.fixture
def plane(shared: ControlPlane) -> Iterator[ControlPlane]:
    """The API server, emptied after the test."""
    yield shared
    for found in shared.call("GET", MISSIONS)["items"]:
        path = f"{MISSIONS}/{found['metadata']['name']}"
        shared.merge(path, {"metadata": {"finalizers": None}})
        with suppress(urllib.error.HTTPError):  # it was only waiting for its finalizer
            shared.call("DELETE", path)
    for path in (DEPLOYMENTS, EVENTS):
        shared.call("DELETE", path)
    shared.call("DELETE", "/api/v1/nodes")


def add(plane: ControlPlane, name: str, **spec: Any) -> None:
    """Create a mission with its Deployment."""
    plane.call("POST", DEPLOYMENTS, deployment(name))
    plane.call("POST", MISSIONS, mission(name, **spec))


def add_node(plane: ControlPlane, name: str, product: str, gpus: int = 1, **labels: str) -> None:
    """Create a node with GPUs."""
    made = gpu_node(name, product, gpus, **labels)
    plane.call("POST", "/api/v1/nodes", made)
    plane.merge(f"/api/v1/nodes/{name}/status", {"status": made["status"]})


def one_gpu(*products: str, **more: Any) -> list[dict[str, Any]]:
    """Return the claim for one GPU."""
    wanted = {"products": list(products)} if products else {}
    return [{"name": "primary", **wanted, **more}]


def test_gpus_are_assigned_by_node_selector(plane: ControlPlane) -> None:
    """A mission gets selector, limit and priority class, says so, and hands them back."""
    add_node(plane, "orch-h100", H100)
    add_node(plane, "orch-rtx", RTX, 2)
    with orchestrator(plane.folder):
        add(plane, "router", priority="high", gpus=one_gpu("H100"))
        until(lambda: selector(plane, "router").get(HOST) == "orch-h100", "assigned")
        pod = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"]["template"]["spec"]
        make_ready(plane, "router")
        running = until(
            lambda: (s := status(plane, "router")).get("phase") == "Running" and s, "running"
        )
        plane.call("DELETE", f"{MISSIONS}/router")
        until(lambda: not selector(plane, "router"), "handed back")

    assert selector(plane, "router") == {}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["priorityClassName"] == "bem-high"
    assert running["gpu"] == "1xH100"
    assert running["node"] == "orch-h100"
    reasons = {e["reason"] for e in plane.call("GET", EVENTS)["items"]}
    assert "Running" in reasons


def test_a_lost_node_and_a_higher_class_move_missions(plane: ControlPlane) -> None:
    """A lost node moves its mission; a critical one displaces medium, which returns later."""
    add_node(plane, "orch-a", RTX)
    add_node(plane, "orch-b", RTX)
    with orchestrator(plane.folder):
        add(plane, "sep", priority="medium", gpus=one_gpu())
        until(lambda: selector(plane, "sep").get(HOST) == "orch-a", "first place")
        plane.call("DELETE", "/api/v1/nodes/orch-a")
        until(lambda: selector(plane, "sep").get(HOST) == "orch-b", "moved")
        add(plane, "safety", priority="critical", gpus=one_gpu())
        until(lambda: selector(plane, "safety").get(HOST) == "orch-b", "preempted")
        evicted = until(
            lambda: (c := condition(plane, "sep", "Conflict")).get("status") == "True" and c,
            "conflict",
        )
        # The placement follows the status that explains it.
        until(lambda: plane.call("GET", f"{DEPLOYMENTS}/sep")["spec"]["replicas"] == 0, "stopped")
        add_node(plane, "orch-c", RTX)
        until(lambda: selector(plane, "sep").get(HOST) == "orch-c", "returned")

    assert evicted["reason"] == "Overbooked"
    assert "safety (critical)" in evicted["message"]


def test_an_impossible_request_stays_pending_and_says_why(plane: ControlPlane) -> None:
    """What the cluster cannot give is named; without any GPU the mission runs on the CPU."""
    with orchestrator(plane.folder):
        add(plane, "router", gpus=one_gpu(memoryGiB=80))
        cpu = until(lambda: (c := condition(plane, "router", "GPUAssigned")) and c, "condition")
        pods = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"].get("replicas", 1)
        add_node(plane, "orch-rtx", RTX)
        until(lambda: status(plane, "router").get("phase") == "Pending", "pending")
        pending = condition(plane, "router", "GPUAssigned")

    assert cpu["reason"] == "NoGPUsInCluster"
    assert "runs on CPU nodes" in cpu["message"]
    assert pods == 1
    assert pending["reason"] == "MemoryTooSmall"
    assert "needs 80 GiB a GPU; the largest suitable GPU has 24 GiB" in pending["message"]


def test_the_seeds_table_is_a_reported_conflict(plane: ControlPlane) -> None:
    """The seed's plan names RTX4090_3 where there are three: E says so, all else is assigned."""
    add_node(plane, "orch-h100-0", H100)
    add_node(plane, "orch-h100-1", H100, 2, **{"nvidia.com/gpu.replicas": "2"})
    add_node(plane, "orch-rtx", RTX, 3)
    with orchestrator(plane.folder):
        add(
            plane,
            "router",
            priority="high",
            gpus=[
                {"name": "primary", "device": "H100_0"},
                {"name": "secondary", "device": "RTX4090_0"},
            ],
        )
        add(plane, "online", priority="high", gpus=[{"name": "primary", "device": "RTX4090_1"}])
        add(plane, "safety", priority="critical", gpus=[{"name": "primary", "device": "RTX4090_2"}])
        add(plane, "sep", gpus=one_gpu("H100", memoryGiB=40, shareWith=["memory"]))
        add(
            plane,
            "memory",
            priority="high",
            gpus=[
                {"name": "primary", "products": ["H100"], "memoryGiB": 40, "shareWith": ["sep"]},
                {"name": "secondary", "device": "RTX4090_3"},
            ],
        )
        conflict = until(
            lambda: (c := condition(plane, "memory", "Conflict")).get("status") == "True" and c,
            "conflict",
        )
        places = {
            "router": "orch-h100-0",
            "online": "orch-rtx",
            "safety": "orch-rtx",
            "sep": "orch-h100-1",
            "memory": "orch-h100-1",
        }
        until(
            lambda: all(selector(plane, name).get(HOST) == node for name, node in places.items()),
            "all placed",
        )

    assert conflict["reason"] == "DeviceMissing"
    assert "names RTX4090_3" in conflict["message"]
    assert "RTX4090_0, RTX4090_1, RTX4090_2" in conflict["message"]


def test_it_survives_kills_and_api_restarts(plane: ControlPlane) -> None:
    """Killed without a word, or left without its API server, it goes on where it stood."""
    add_node(plane, "orch-a", RTX, 4)
    with orchestrator(plane.folder, identity="one") as first:
        add(plane, "router", gpus=one_gpu())
        until(lambda: selector(plane, "router").get(HOST) == "orch-a", "assigned")
        first.end()
        add(plane, "online", gpus=one_gpu())
        first.start()
        until(lambda: selector(plane, "online").get(HOST) == "orch-a", "after its own kill")
        plane.kill_api()
        plane.start_api()
        add(plane, "sep", gpus=one_gpu())
        until(lambda: selector(plane, "sep").get(HOST) == "orch-a", "after the API's restart")


def test_one_of_two_leads_and_the_other_takes_over(plane: ControlPlane) -> None:
    """Two replicas write once; when the leader is killed the other goes on within the lease."""
    add_node(plane, "orch-a", RTX, 4)
    with orchestrator(plane.folder, identity="one") as first:
        add(plane, "router", gpus=one_gpu())
        until(lambda: selector(plane, "router").get(HOST) == "orch-a", "assigned")
        with orchestrator(plane.folder, identity="two"):
            lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/bem-orchestrator"
            holder = plane.call("GET", lease)["spec"]["holderIdentity"]
            first.end()
            add(plane, "online", gpus=one_gpu())
            until(lambda: selector(plane, "online").get(HOST) == "orch-a", "taken over")
            after = plane.call("GET", lease)["spec"]["holderIdentity"]

    assert (holder, after) == ("one", "two")


def test_conflicting_writes_are_retried(plane: ControlPlane) -> None:
    """While others keep changing a mission, its status still comes true."""
    add_node(plane, "orch-a", RTX, 4)
    add(plane, "router", gpus=one_gpu())
    stop = threading.Event()

    def disturb() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            change = {"metadata": {"annotations": {"disturbed": str(count)}}}
            plane.merge(f"{MISSIONS}/router", change)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with orchestrator(plane.folder):
            until(lambda: status(plane, "router").get("gpu") == "1xRTX4090", "status")
    finally:
        stop.set()
        thread.join()


def stub(made: Orchestrator) -> Any:
    """Return a stub whose calls carry the operator's key, once the service is ready."""
    channel = grpc.insecure_channel(made.address)
    service = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=60
    )
    next(a for a in watch if a.status == health_pb2.HealthCheckResponse.SERVING)
    fleet = fleet_pb2_grpc.FleetServiceStub(channel)
    key = made.keys.metadata("operator")
    methods = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].methods_by_name
    calls = {name: partial(getattr(fleet, name), metadata=key) for name in methods}
    return SimpleNamespace(**calls)


def test_the_fleet_answers_over_grpc(plane: ControlPlane, redis_server: RedisServer) -> None:
    """Missions, plan, graph and sums come from the caches; an unknown mission is NOT_FOUND."""
    add_node(plane, "orch-a", RTX, 2)
    edge = {"mission": "online", "interface": "PolicyUpdateInterface"}
    with orchestrator(plane.folder, redis_url=redis_server.url) as made:
        add(plane, "router", gpus=one_gpu(), integrates=[edge])
        until(lambda: selector(plane, "router").get(HOST) == "orch-a", "assigned")
        fleet = stub(made)
        until(lambda: fleet.GetPlan(fleet_pb2.GetPlanRequest()).nodes[0].assigned == 1, "assigned")
        plan = fleet.GetPlan(fleet_pb2.GetPlanRequest())
        graph = fleet.GetIntegrationGraph(fleet_pb2.GetIntegrationGraphRequest())
        sums = fleet.GetFleetStatus(fleet_pb2.GetFleetStatusRequest())
        routes = next(iter(fleet.WatchRoutes(fleet_pb2.WatchRoutesRequest(), timeout=5)))
        with pytest.raises(grpc.RpcError) as unknown:
            fleet.GetMission(fleet_pb2.GetMissionRequest(name="none"))
        with pytest.raises(grpc.RpcError) as idle:
            fleet.SteerCanary(
                fleet_pb2.SteerCanaryRequest(name="router", command=fleet_pb2.CANARY_COMMAND_ABORT)
            )

    assert dict(plan.assignments[0].placed) == {"orch-a": 1}
    assert [(e.to, e.healthy, e.reason) for e in graph.edges] == [
        ("default/online", False, "online is not active")
    ]
    assert (sums.gpus, sums.gpus_assigned, sums.leader) == (2, 1, True)
    assert [r.mission for r in routes.routes] == ["router"]
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert "default/router" in (unknown.value.details() or "")
    assert idle.value.code() is grpc.StatusCode.FAILED_PRECONDITION
