"""Orchestrator in the cluster: leader election, validation, GPU placement under chart RBAC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import complete
from tests.cluster.gpu_nodes import advertise_gpus, create_fake_node, withdraw_gpus
from tests.cluster.kubernetes_cli import CommandError, Release, run, wait_for

pytestmark = [pytest.mark.stage("placement"), pytest.mark.e2e, pytest.mark.timeout(1500)]
H100, RTX = "NVIDIA-H100-80GB-HBM3", "NVIDIA-GeForce-RTX-4090"
HOST = "kubernetes.io/hostname"
_TRACK = "fleet.bem.dev/track"


def mission(name: str, **spec: Any) -> list[dict[str, Any]]:
    """Return a Mission and its Deployment, whose image is never pulled."""
    labels = {"fleet.bem.dev/mission": name, _TRACK: "stable", "placement-test": "true"}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "mission",
                "image": "registry.local/none:1",
                "securityContext": security,
                "imagePullPolicy": "Never",
            }
        ],
    }
    metadata = {"name": name, "labels": labels}
    template = {"metadata": {"labels": labels}, "spec": pod}
    # The orchestrator scales up: pods that never become ready would not be replaced in a rollout.
    deployment = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {
            "apiVersion": "fleet.bem.dev/v1alpha1",
            "kind": "Mission",
            "metadata": metadata,
            "spec": spec,
        },
    ]


def gpu(*products: str, **more: Any) -> dict[str, Any]:
    """Return a GPU request of a Mission."""
    return {"name": "primary", **({"products": list(products)} if products else {}), **more}


# The seed's table with four RTX 4090, so that RTX4090_3 exists.
TABLE: dict[str, dict[str, Any]] = {
    "a-router": {
        "priority": "high",
        "gpus": [
            {"name": "primary", "device": "H100_0"},
            {"name": "secondary", "device": "RTX4090_0"},
        ],
    },
    "b-online": {"priority": "high", "gpus": [{"name": "primary", "device": "RTX4090_1"}]},
    "c-safety": {"priority": "critical", "gpus": [{"name": "primary", "device": "RTX4090_2"}]},
    "e-memory": {
        "priority": "high",
        "gpus": [
            {"name": "primary", "products": ["H100"]},
            {"name": "secondary", "device": "RTX4090_3"},
        ],
    },
}


@pytest.fixture
def gpu_nodes(release: Release) -> Iterator[Release]:
    """Two H100 and three RTX 4090 on fake nodes; removed with all missions of the test."""
    for name, product, count in (("fake-h100", H100, 2), ("fake-rtx", RTX, 3)):
        create_fake_node(name, product, count)
    yield release
    for kind in ("missions", "deployments"):
        release.kubectl("delete", kind, "-l", "placement-test", "--wait=true")
    force = ("--force", "--grace-period=0")
    release.kubectl("delete", "pods", "-l", "placement-test", *force)
    run("kubectl", "delete", "node", "fake-h100", "fake-rtx", "--ignore-not-found")


def test_leader_is_replaced_after_a_kill(release: Release) -> None:
    """The Lease names the leading pod; after its deletion the next one leads and reconciles."""

    def holder() -> str:
        path = "jsonpath={.spec.holderIdentity}"
        return release.kubectl("get", "lease", "bem-orchestrator", "-o", path)

    first = release.pod("orchestrator")["metadata"]["name"]
    wait_for(lambda: holder() == first, "the first pod leads")
    release.kubectl("delete", "pod", first, "--grace-period=0", "--force")
    release.wait_for_rollout()
    second = release.pod("orchestrator")["metadata"]["name"]
    wait_for(lambda: holder() == second, "the second pod leads")
    phase = wait_for(lambda: release.mission("router")["status"]["phase"] == "Running", "running")

    assert phase
    assert second != first


def test_invalid_mission_is_rejected_by_the_api_server(release: Release) -> None:
    """The API server rejects an invalid Mission with a message that names the field."""
    patch = {"spec": {"canary": {"image": "a:1", "model": "b"}}}
    with pytest.raises(CommandError, match=r"spec\.canary: give image"):
        release.patch_mission("router", patch)


def test_missions_are_placed_by_gpu(gpu_nodes: Release) -> None:
    """The allocation table is placed, bound by the scheduler, and moved when a node is lost.

    A cordon moves nobody, and a newcomer is told of it.
    A device that no node has is reported as a conflict until a node has it. A request that no node
    can satisfy stays Pending with its reason.
    """
    release = gpu_nodes
    items = [each for name, spec in TABLE.items() for each in mission(name, **spec)]
    items += mission("d-huge", priority="low", gpus=[gpu(memoryGiB=500)])
    release.kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    conflict = wait_for(lambda: release.condition("e-memory", "Conflict", "True"), "conflict")
    pending = wait_for(lambda: release.condition("d-huge", "GPUAssigned", "False"), "pending")

    assert "names RTX4090_3" in conflict["message"]
    assert pending["reason"] == "MemoryTooSmall"
    assert release.mission("d-huge")["status"]["phase"] == "Pending"

    create_fake_node("fake-rtx", RTX, 4)
    wait_for(lambda: release.condition("e-memory", "Conflict", "False"), "the fourth RTX 4090")
    expected_nodes = {
        "a-router": "fake-h100",
        "b-online": "fake-rtx",
        "c-safety": "fake-rtx",
        "e-memory": "fake-h100",
    }

    def bound_nodes() -> dict[str, str]:
        pods = json.loads(release.kubectl("get", "pods", "-l", "placement-test", "-o", "json"))
        return {
            p["metadata"]["labels"]["fleet.bem.dev/mission"]: p["spec"].get("nodeName", "")
            for p in pods["items"]
            if "deletionTimestamp" not in p["metadata"]
        }

    wait_for(lambda: bound_nodes() == expected_nodes, "bound by the scheduler")
    run("kubectl", "cordon", "fake-h100")
    late = {"apiVersion": "v1", "kind": "List", "items": mission("f-late", gpus=[gpu("H100")])}
    release.kubectl("apply", "-f", "-", stdin=json.dumps(late))
    told = wait_for(lambda: release.condition("f-late", "GPUAssigned", "False"), "told")
    assert "fake-h100 (cordoned)" in told["message"]
    assert bound_nodes() == expected_nodes
    run("kubectl", "uncordon", "fake-h100")
    create_fake_node("fake-rtx-2", RTX, 4)
    run("kubectl", "delete", "node", "fake-rtx")
    try:
        wait_for(lambda: release.mission("b-online")["status"].get("node") == "fake-rtx-2", "moved")
    finally:
        run("kubectl", "delete", "node", "fake-rtx-2")


def test_mission_runs_on_the_real_nodes_gpu(release: Release) -> None:
    """With a GPU on the real node the mission's pod requests it, is bound and completes."""
    node = release.pod("router")["spec"]["nodeName"]
    advertise_gpus(node, H100, 1)
    try:
        release.patch_mission("router", {"spec": {"gpus": [gpu("H100")]}})
        wait_for(lambda: release.mission("router")["status"].get("gpu") == "1xH100", "assigned")
        release.wait_for_rollout()
        pod = release.pod("router")
        text = complete(release)
    finally:
        release.patch_mission("router", {"spec": {"gpus": None}})
        wait_for(lambda: release.mission("router")["status"].get("gpu") == "cpu", "released")
        withdraw_gpus(node)
        release.wait_for_rollout()

    limits = {c["name"]: c["resources"]["limits"] for c in pod["spec"]["containers"]}
    assert limits["router"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["nodeSelector"][HOST] == pod["spec"]["nodeName"]
    assert "Paris" in text
