"""Manifests as Argo CD and Flux apply them: no drift, and adoption from helm and back."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, VALUE_SETS, objects, render
from tests.charts.test_made_secrets import (
    SECRETS,
    helm,
    kubectl,
    plane,
    run_jobs,
    secrets,
    shared,
    upgrade,
)
from tests.charts.test_secret_rotation import APPS, KINDS, log_in, named, settings, templates
from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.orchestrators import orchestrator, until

__all__ = ["plane", "shared"]
pytestmark = [pytest.mark.slow, needs_kubernetes()]
SHIPPED = next(path for path in VALUE_SETS if path.name.startswith("shipped"))
TOOL = ("--server-side", "--field-manager=argocd-controller", "-f", "-")
MISSIONS = "/apis/fleet.bem.dev/v1alpha1/namespaces/fleet/missions"
# Kinds of other projects, whose resources a bare API server does not serve.
FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "gateway.networking.k8s.io/", "cert-manager.io/")


def served(text: str) -> str:
    """Return the rendered objects that a bare API server knows, without those of `helm test`."""
    return yaml.safe_dump_all(
        one
        for one in objects(text)
        if not one["apiVersion"].startswith(FOREIGN)
        and "helm.sh/hook" not in one["metadata"].get("annotations", {})
    )


def generations(plane: ControlPlane) -> dict[str, int]:
    """Return the generation of each workload, which grows with every change of its spec."""
    return {
        f"{kind}/{one['metadata']['name']}": one["metadata"]["generation"]
        for kind in KINDS
        for one in plane.call("GET", f"{APPS}/{kind}")["items"]
    }


def versions(plane: ControlPlane) -> dict[str, str]:
    """Return the resource version of each object of the release."""
    paths = (
        "/api/v1/namespaces/fleet/services",
        "/api/v1/namespaces/fleet/configmaps",
        "/apis/networking.k8s.io/v1/namespaces/fleet/networkpolicies",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/fleet/roles",
        "/apis/policy/v1/namespaces/fleet/poddisruptionbudgets",
        MISSIONS,
        *(f"{APPS}/{kind}" for kind in KINDS),
    )
    return {
        f"{path}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for path in paths
        for one in plane.call("GET", path)["items"]
    }


def owners(found: dict[str, Any]) -> set[str]:
    """Return the field managers of an object."""
    return {one["manager"] for one in found["metadata"]["managedFields"]}


@pytest.mark.parametrize("values", VALUE_SETS, ids=[path.stem for path in VALUE_SETS])
def test_every_set_of_values_is_applied_once(plane: ControlPlane, values: Path) -> None:
    """The second apply writes nothing, and the drift check after it is clean."""
    first = kubectl(plane, "apply", *TOOL, stdin=served(render(values)))
    before = versions(plane)
    again = kubectl(plane, "apply", *TOOL, stdin=served(render(values)))
    drift = kubectl(plane, "diff", *TOOL, stdin=served(render(values)))

    assert first.returncode == 0, first.stderr
    assert again.returncode == 0, again.stderr
    assert versions(plane) == before
    assert drift.returncode == 0, drift.stdout


def test_the_orchestrator_is_no_drift(plane: ControlPlane, tmp_path: Path) -> None:
    """Placement, a scale, and a restart for a Secret are neither conflicts nor differences."""
    text = served(render(SHIPPED))
    kubectl(plane, "apply", *TOOL, stdin=text)
    run_jobs(plane, tmp_path)
    log_in(plane, tmp_path)
    wanted = settings(named(render(SHIPPED)))
    names = ("NAMESPACE", "DEPLOYMENT", "PRIORITY_CLASS_PREFIX", "RESTART_SECRETS")
    given = {name: wanted[name] for name in (*names, "RESTART_STATEFUL_SETS")}
    with orchestrator(tmp_path, **given, secret_settle_s="0.2", secret_interval_s="0.5"):
        path = f"{APPS}/deployments/bem-fleet-router"
        until(lambda: "bem-secret-restarts" in owners(plane.call("GET", path)), "recorded")
        kubectl(plane, "scale", "mission", "router", "--replicas=2")
        until(lambda: plane.call("GET", path)["spec"]["replicas"] == 2, "scaled")
        plane.merge(f"{SECRETS}/bem-fleet-redis", {"stringData": {"gateway": "rotated"}})
        store = f"{APPS}/statefulsets/bem-fleet-redis"
        annotations = "annotations"
        until(
            lambda: (
                "fleet.bem.dev/secrets"
                in plane.call("GET", store)["spec"]["template"]["metadata"][annotations]
            ),
            "restarted",
        )
        before = generations(plane)
        again = kubectl(plane, "apply", *TOOL, stdin=text)
        drift = kubectl(plane, "diff", *TOOL, stdin=text)

    assert again.returncode == 0, again.stderr
    assert drift.returncode == 0, drift.stdout
    assert generations(plane) == before
    assert plane.call("GET", f"{MISSIONS}/router")["spec"]["replicas"] == 2


def test_a_release_of_helm_is_adopted_and_given_back(plane: ControlPlane, tmp_path: Path) -> None:
    """No pod restarts and no Secret changes; helm takes the fields back with one option."""
    upgrade(plane)
    run_jobs(plane, tmp_path)
    before, made = generations(plane), secrets(plane)
    text = served(render(SHIPPED))
    adopted = kubectl(plane, "apply", *TOOL, "--force-conflicts", stdin=text)
    drift = kubectl(plane, "diff", *TOOL, stdin=text)
    after = generations(plane)
    words = ("upgrade", "bem-fleet", str(CHART), "--set", "services.gateway.drainSeconds=31")
    refused = helm(plane, *words)
    back = helm(plane, *words, "--force-conflicts")
    run_jobs(plane, tmp_path)

    assert adopted.returncode == 0, adopted.stderr
    assert drift.returncode == 0, drift.stdout
    assert after == before
    # Two tools that both apply a field are told, instead of undoing each other's work.
    assert refused.returncode != 0
    assert 'conflict with "argocd-controller"' in refused.stderr
    assert back.returncode == 0, back.stderr
    changed = {name for name, count in generations(plane).items() if before[name] != count}
    assert changed == {"deployments/bem-fleet-gateway"}
    assert secrets(plane) == made


def test_manifests_become_a_release_of_helm(plane: ControlPlane, tmp_path: Path) -> None:
    """Helm refuses what is not its own until it is told; then nothing restarts."""
    text = served(render(SHIPPED))
    kubectl(plane, "apply", *TOOL, stdin=text)
    run_jobs(plane, tmp_path)
    before, made = templates(plane), secrets(plane)
    words = ("install", "bem-fleet", str(CHART))
    refused = helm(plane, *words)
    # Lists without keys, such as ports of a policy, have defaults in the cluster: they differ.
    taken = helm(plane, *words, "--take-ownership", "--force-conflicts")
    later = helm(plane, "upgrade", "bem-fleet", str(CHART))
    after = templates(plane)
    gone = helm(plane, "uninstall", "bem-fleet")
    left = [one["metadata"]["name"] for one in plane.call("GET", f"{APPS}/deployments")["items"]]

    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    assert taken.returncode == 0, taken.stderr
    assert later.returncode == 0, later.stderr
    assert after == before
    assert secrets(plane) == made
    assert gone.returncode == 0, gone.stderr
    assert left == []
