"""What happens to nodes under missions: cordons, taints, lost GPUs, another label."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

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
    condition,
    orchestrator,
    selector,
    until,
)

pytestmark = [pytest.mark.slow, needs_kubernetes()]
H100 = "NVIDIA-H100-80GB-HBM3"
HOST = "kubernetes.io/hostname"
TEAM = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
TOLERATION = {"key": "dedicated", "operator": "Equal", "value": "ml"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest.fixture
def plane(shared: ControlPlane) -> Iterator[ControlPlane]:
    """The API server, emptied after the test."""
    yield shared
    for path in (MISSIONS, DEPLOYMENTS, "/api/v1/nodes"):
        shared.call("DELETE", path)


def add(plane: ControlPlane, name: str, *, tolerations: tuple[dict[str, str], ...] = ()) -> None:
    """Create a mission that wants an H100, with its Deployment."""
    made = deployment(name)
    made["spec"]["template"]["spec"]["tolerations"] = list(tolerations)
    plane.call("POST", DEPLOYMENTS, made)
    gpus = [{"name": "primary", "products": ["H100"]}]
    plane.call("POST", MISSIONS, mission(name, gpus=gpus))


def add_node(plane: ControlPlane, name: str, gpus: int = 1) -> None:
    """Create a node with H100s."""
    made = gpu_node(name, H100, gpus)
    plane.call("POST", "/api/v1/nodes", made)
    plane.merge(f"/api/v1/nodes/{name}/status", {"status": made["status"]})


def run_pod(plane: ControlPlane, name: str, node: str) -> None:
    """Play scheduler and kubelet: a pod of the mission runs on a node."""
    template = plane.call("GET", f"{DEPLOYMENTS}/{name}")["spec"]["template"]
    labels = template["metadata"]["labels"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {**template["spec"], "nodeName": node},
    }
    plane.call("POST", "/api/v1/namespaces/default/pods", pod)


def change(plane: ControlPlane, node: str, **spec: Any) -> None:
    """Change the specification of a node."""
    plane.merge(f"/api/v1/nodes/{node}", {"spec": spec})


def has_reason(plane: ControlPlane, name: str, text: str) -> bool:
    """Return whether the mission's condition gives a reason with the text."""
    return text in condition(plane, name, "GPUAssigned").get("message", "")


def test_who_runs_stays_until_the_node_evicts(plane: ControlPlane) -> None:
    """A cordon, a taint and further GPUs move nobody, and newcomers are told the reason."""
    add_node(plane, "node-a")
    with orchestrator(plane.folder):
        add(plane, "old")
        until(lambda: selector(plane, "old").get(HOST) == "node-a", "placed")
        run_pod(plane, "old", "node-a")
        generation = plane.call("GET", f"{DEPLOYMENTS}/old")["metadata"]["generation"]
        change(plane, "node-a", unschedulable=True)
        add(plane, "new")
        until(lambda: has_reason(plane, "new", "node-a (cordoned)"), "told of the cordon")
        change(plane, "node-a", unschedulable=None, taints=[TEAM])
        until(lambda: has_reason(plane, "new", "tainted dedicated:NoSchedule"), "told of the taint")
        grown = {"nvidia.com/gpu": "2"}
        plane.merge(
            "/api/v1/nodes/node-a/status", {"status": {"allocatable": grown, "capacity": grown}}
        )
        change(plane, "node-a", taints=None)
        until(lambda: selector(plane, "new").get(HOST) == "node-a", "the second GPU is used")
        after = plane.call("GET", f"{DEPLOYMENTS}/old")["metadata"]["generation"]
        add_node(plane, "node-b")
        change(plane, "node-a", taints=[{**TEAM, "effect": "NoExecute"}])
        until(lambda: "node-b" in {selector(plane, n).get(HOST) for n in ("old", "new")}, "moved")

    assert after == generation


def test_tolerated_taints_keep_nobody_away(plane: ControlPlane) -> None:
    """A team's GPU nodes take missions with the team's toleration, which stays on the pods."""
    add_node(plane, "node-a")
    change(plane, "node-a", taints=[TEAM])
    with orchestrator(plane.folder, tolerations=json.dumps([TOLERATION])):
        add(plane, "router", tolerations=(TOLERATION,))
        until(lambda: selector(plane, "router").get(HOST) == "node-a", "placed")
        pod = plane.call("GET", f"{DEPLOYMENTS}/router")["spec"]["template"]["spec"]

    assert TOLERATION in pod["tolerations"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in (
        pod["tolerations"]
    )


def test_a_relabelled_node_is_taken_for_what_it_is(plane: ControlPlane) -> None:
    """A node that turns out to have other GPUs loses the mission that asks for the first ones."""
    add_node(plane, "node-a")
    with orchestrator(plane.folder):
        add(plane, "router")
        until(lambda: selector(plane, "router").get(HOST) == "node-a", "placed")
        labels = {"metadata": {"labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}}}
        plane.merge("/api/v1/nodes/node-a", labels)
        until(lambda: has_reason(plane, "router", "H100"), "told")
        add_node(plane, "node-b")
        until(lambda: selector(plane, "router").get(HOST) == "node-b", "placed again")
