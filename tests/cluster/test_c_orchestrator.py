"""The orchestrator in the cluster, with the rights that the chart gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.gpu_nodes import fake_node, give_gpus, take_gpus
from tests.cluster.kubernetes_cli import CommandError, Release, run, until
from tests.cluster.talking import answer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
H100, RTX = "NVIDIA-H100-80GB-HBM3", "NVIDIA-GeForce-RTX-4090"
HOST = "kubernetes.io/hostname"
_TRACK = "fleet.bem.dev/track"


def mission(name: str, **spec: Any) -> list[dict[str, Any]]:
    """Return a Mission and its Deployment, whose pods need no image that runs."""
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
    # The first pods come from the orchestrator: those of an image that never runs are not replaced.
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
    """Return the claim for a GPU."""
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
        fake_node(name, product, count)
    yield release
    for kind in ("missions", "deployments"):
        release.kubectl("delete", kind, "-l", "placement-test", "--wait=true")
    force = ("--force", "--grace-period=0")
    release.kubectl("delete", "pods", "-l", "placement-test", *force)
    run("kubectl", "delete", "node", "fake-h100", "fake-rtx", "--ignore-not-found")


def test_one_leads_and_the_next_takes_over(release: Release) -> None:
    """The Lease names the pod; when it is killed another holds it and the missions go on."""

    def holder() -> str:
        path = "jsonpath={.spec.holderIdentity}"
        return release.kubectl("get", "lease", "bem-orchestrator", "-o", path)

    first = release.pod("orchestrator")["metadata"]["name"]
    until(lambda: holder() == first, "the first leads")
    release.kubectl("delete", "pod", first, "--grace-period=0", "--force")
    release.rolled_out()
    second = release.pod("orchestrator")["metadata"]["name"]
    until(lambda: holder() == second, "the second leads")
    phase = until(lambda: release.mission("router")["status"]["phase"] == "Running", "running")

    assert phase
    assert second != first


def test_invalid_missions_are_refused_by_name(release: Release) -> None:
    """The API server itself refuses a wrong Mission, and its words name the field."""
    patch = {"spec": {"canary": {"image": "a:1", "model": "b"}}}
    with pytest.raises(CommandError, match=r"spec\.canary: give image"):
        release.patch_mission("router", patch)


def test_missions_are_placed_where_they_fit(gpu_nodes: Release) -> None:
    """The seed's table is placed, bound by the real scheduler, and moved when a node is lost.

    Until the card is there that it names wrongly, the conflict is reported; what no node can give
    stays Pending and says so.
    """
    release = gpu_nodes
    items = [each for name, spec in TABLE.items() for each in mission(name, **spec)]
    items += mission("d-huge", priority="low", gpus=[gpu(memoryGiB=500)])
    release.kubectl(
        "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    conflict = until(lambda: release.condition("e-memory", "Conflict", "True"), "conflict")
    pending = until(lambda: release.condition("d-huge", "GPUAssigned", "False"), "pending")

    assert "names RTX4090_3" in conflict["message"]
    assert pending["reason"] == "MemoryTooSmall"
    assert release.mission("d-huge")["status"]["phase"] == "Pending"

    fake_node("fake-rtx", RTX, 4)
    until(lambda: release.condition("e-memory", "Conflict", "False"), "the fourth card")
    places = {
        "a-router": "fake-h100",
        "b-online": "fake-rtx",
        "c-safety": "fake-rtx",
        "e-memory": "fake-h100",
    }

    def bound() -> dict[str, str]:
        pods = json.loads(release.kubectl("get", "pods", "-l", "placement-test", "-o", "json"))
        return {
            p["metadata"]["labels"]["fleet.bem.dev/mission"]: p["spec"].get("nodeName", "")
            for p in pods["items"]
            if "deletionTimestamp" not in p["metadata"]
        }

    until(lambda: bound() == places, "bound by the scheduler")
    fake_node("fake-rtx-2", RTX, 4)
    run("kubectl", "delete", "node", "fake-rtx")
    try:
        until(lambda: release.mission("b-online")["status"].get("node") == "fake-rtx-2", "moved")
    finally:
        run("kubectl", "delete", "node", "fake-rtx-2")


def test_mission_runs_on_the_real_nodes_gpu(release: Release) -> None:
    """With a GPU on the real node the mission's pod asks for it, is bound to it and answers."""
    node = release.pod("router")["spec"]["nodeName"]
    give_gpus(node, H100, 1)
    try:
        release.patch_mission("router", {"spec": {"gpus": [gpu("H100")]}})
        until(lambda: release.mission("router")["status"].get("gpu") == "1xH100", "assigned")
        release.rolled_out()
        pod = release.pod("router")
        said = answer(release)
    finally:
        release.patch_mission("router", {"spec": {"gpus": None}})
        until(lambda: release.mission("router")["status"].get("gpu") == "cpu", "handed back")
        take_gpus(node)
        release.rolled_out()

    limits = {c["name"]: c["resources"]["limits"] for c in pod["spec"]["containers"]}
    assert limits["router"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["nodeSelector"][HOST] == pod["spec"]["nodeName"]
    assert "Paris" in said
