"""Releases at a real API server: scales, sizes, rights in the namespace alone, second releases."""

import base64
import gzip
import json
from pathlib import Path

import pytest

from tests.charts.rendering import CHART, VALUE_SETS, objects, render
from tests.charts.test_made_secrets import SECRETS, helm, kubectl, plane, shared, upgrade
from tests.charts.test_secret_rotation import log_in
from tests.integration.clusters import CRD, ControlPlane, needs_kubernetes
from tests.integration.orchestrators import orchestrator, until

__all__ = ["plane", "shared"]
pytestmark = [pytest.mark.slow, needs_kubernetes()]
GATEWAY = "/apis/apps/v1/namespaces/fleet/deployments/bem-fleet-gateway"
DEPLOYMENTS = "/apis/apps/v1/namespaces/fleet/deployments"
MISSION = "/apis/fleet.bem.dev/v1alpha1/namespaces/fleet/missions/router"
SHIPPED = next(path for path in VALUE_SETS if path.name.startswith("shipped"))


def scale(plane: ControlPlane, pods: int, manager: str) -> None:
    """Scale the gateway as `kubectl scale` and autoscalers do."""
    body = {"spec": {"replicas": pods}}
    path = f"{GATEWAY}/scale?fieldManager={manager}"
    plane.call("PATCH", path, body, kind="merge-patch+json")


def replicas(plane: ControlPlane) -> int:
    """Return the number of pods that the gateway wants."""
    return int(plane.call("GET", GATEWAY)["spec"]["replicas"])


def leave_in(plane: ControlPlane, status: str) -> None:
    """Leave the newest revision as a helm that was killed leaves it."""
    revisions = [
        one for one in plane.call("GET", SECRETS)["items"] if one["type"] == "helm.sh/release.v1"
    ]
    newest = max(revisions, key=lambda one: int(one["metadata"]["labels"]["version"]))
    packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
    release = json.loads(gzip.decompress(packed))
    release["info"]["status"] = status
    text = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    body = {
        "metadata": {"labels": {"status": status}},
        "data": {"release": base64.b64encode(text).decode()},
    }
    plane.merge(f"{SECRETS}/{newest['metadata']['name']}", body)


def test_a_release_that_helm_left_halfway_goes_on(plane: ControlPlane) -> None:
    """The ways out of the operations guide: rollback after an upgrade, uninstall once more."""
    upgrade(plane)
    upgrade(plane, "services.gateway.drainSeconds=31")
    leave_in(plane, "pending-upgrade")
    refused = helm(plane, "upgrade", "bem-fleet", str(CHART))
    back = helm(plane, "rollback", "bem-fleet")
    upgrade(plane)
    leave_in(plane, "uninstalling")
    gone = helm(plane, "uninstall", "bem-fleet", "--no-hooks")

    assert "another operation" in refused.stderr
    assert back.returncode == 0, back.stderr
    assert gone.returncode == 0, gone.stderr
    assert plane.call("GET", DEPLOYMENTS)["items"] == []


def test_a_scaled_service_is_upgraded(plane: ControlPlane) -> None:
    """A scale stays until the values' number changes; then helm says whose it is."""
    upgrade(plane)
    scale(plane, 3, "kubectl")
    upgrade(plane, "services.router.drainSeconds=31")
    kept = replicas(plane)
    words = ("upgrade", "bem-fleet", str(CHART), "--set", "services.gateway.replicas=2")
    scale(plane, 4, "kubectl")
    refused = helm(plane, *words)
    forced = helm(plane, *words, "--force-conflicts")

    assert kept == 3
    assert '"kubectl" with subresource "scale"' in refused.stderr
    assert forced.returncode == 0, forced.stderr
    assert replicas(plane) == 2


def test_an_autoscaler_is_turned_on_without_a_loss(plane: ControlPlane) -> None:
    """The pods stay as many as they are until it decides, also when it never changes them."""
    on = ("services.gateway.replicas=4", "services.gateway.autoscaling.enabled=true")
    upgrade(plane, on[0])
    counts = []
    for _ in range(2):
        upgrade(plane, *on)
        counts.append(replicas(plane))
    scale(plane, 6, "kube-controller-manager")
    upgrade(plane, *on, "services.gateway.drainSeconds=31")
    counts.append(replicas(plane))

    assert counts == [4, 4, 6]


def test_a_second_release_in_the_namespace_writes_nothing(plane: ControlPlane) -> None:
    """Missions have the names of their services, so a namespace holds one fleet."""
    upgrade(plane)
    before = plane.call("GET", MISSION)["metadata"]["resourceVersion"]
    second = helm(plane, "install", "second", str(CHART))
    names = [one["metadata"]["name"] for one in plane.call("GET", DEPLOYMENTS)["items"]]

    assert second.returncode != 0
    assert 'Mission "' in second.stderr
    assert not [name for name in names if name.startswith("second")]
    assert plane.call("GET", MISSION)["metadata"]["resourceVersion"] == before


def test_sizes_stay_far_from_the_limits(plane: ControlPlane) -> None:
    """A release is one Secret of 1 MiB, and a client-side apply keeps 256 KiB in an annotation."""
    sets = ("monitoring.dashboards.enabled=true",)
    upgrade(plane, *sets)
    stored = [
        one for one in plane.call("GET", SECRETS)["items"] if one["type"] == "helm.sh/release.v1"
    ]
    applied = kubectl(plane, "apply", "-f", str(CRD))
    pages = [one for one in objects(render(SHIPPED, *sets)) if one["kind"] == "ConfigMap"]

    assert stored
    assert all(len(base64.b64decode(one["data"]["release"])) < 500_000 for one in stored)
    assert applied.returncode == 0, applied.stderr
    assert CRD.stat().st_size < 60_000
    assert all(len(str(one)) < 200_000 for one in pages)


def test_rights_in_the_namespace_are_enough(plane: ControlPlane, tmp_path: Path) -> None:
    """Without a ClusterRole the orchestrator leads, runs a canary's objects and removes them."""
    sets = ("orchestration.seesNodes=false", "priorityClasses.create=false")
    upgrade(plane, *sets)
    log_in(plane, tmp_path)
    given = {
        "namespace": "fleet",
        "deployment": "bem-fleet-orchestrator",
        "foreign_pods": "false",
        "priority_class_prefix": "",
    }
    canary = f"{DEPLOYMENTS}/bem-fleet-router-canary"

    def exists() -> bool:
        names = [one["metadata"]["name"] for one in plane.call("GET", DEPLOYMENTS)["items"]]
        return "bem-fleet-router-canary" in names

    with orchestrator(tmp_path, **given):
        until(lambda: plane.call("GET", MISSION).get("status"), "a status")
        plane.merge(MISSION, {"spec": {"canary": {"image": "registry.local/router:2"}}})
        until(exists, "a canary")
        service = plane.call("GET", "/api/v1/namespaces/fleet/services/bem-fleet-router-canary")
        made = plane.call("GET", canary)
        plane.merge(MISSION, {"spec": {"canary": None}})
        until(lambda: not exists(), "no canary")
    log = (tmp_path / "orchestrator.log").read_text()

    assert service["spec"]["selector"]["fleet.bem.dev/track"] == "canary"
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Mission"
    assert "forbidden" not in "".join(
        line for line in log.splitlines() if "nodes" not in line and "/pods" not in line
    )
