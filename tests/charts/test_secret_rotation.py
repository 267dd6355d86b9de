"""Secrets that something else than helm changes: the orchestrator restarts what reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.descriptors import load_descriptors, missions
from bem_fleet.services.orchestrator.secret_uses import RESTARTED

from tests.charts.rendering import VALUE_SETS, objects, render
from tests.charts.test_made_secrets import (
    SECRETS,
    helm,
    kubectl,
    plane,
    run_jobs,
    shared,
    upgrade,
)
from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.orchestrators import orchestrator, until

__all__ = ["plane", "shared"]
SHIPPED = next(path for path in VALUE_SETS if path.name.startswith("shipped"))
EXTERNAL = next(path for path in VALUE_SETS if path.name.startswith("external-redis"))
APPS = "/apis/apps/v1/namespaces/fleet"
KINDS = ("deployments", "statefulsets")


def named(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rendered objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects(text)}


def settings(found: dict[tuple[str, str], dict[str, Any]]) -> dict[str, str]:
    """Return the orchestrator's settings as its pod has them."""
    pod = found["Deployment", "bem-fleet-orchestrator"]["spec"]["template"]["spec"]
    prefix = "BEM_ORCHESTRATOR_"
    return {
        one["name"].removeprefix(prefix): one["value"]
        for one in pod["containers"][0]["env"]
        if one["name"].startswith(prefix) and "value" in one
    }


def log_in(plane: ControlPlane, folder: Path, account: str = "bem-fleet-orchestrator") -> None:
    """Write a kubeconfig with the rights of a ServiceAccount and no other."""
    path = f"/api/v1/namespaces/fleet/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = plane.call("POST", path, request)["status"]["token"]
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = token
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))


def make_all_ready(plane: ControlPlane) -> None:
    """Play the controllers: every pod is ready and new."""
    for kind in KINDS:
        for one in plane.call("GET", f"{APPS}/{kind}")["items"]:
            pods = one["spec"].get("replicas", 1)
            counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), pods)
            status = {"observedGeneration": one["metadata"]["generation"], **counts}
            path = f"{APPS}/{kind}/{one['metadata']['name']}/status"
            plane.merge(path, {"status": status})


def restarted(plane: ControlPlane) -> set[str]:
    """Return the workloads whose pods were replaced for a Secret."""
    return {
        one["metadata"]["name"].removeprefix("bem-fleet-")
        for kind in KINDS
        for one in plane.call("GET", f"{APPS}/{kind}")["items"]
        if RESTARTED in one["spec"]["template"]["metadata"].get("annotations", {})
    }


def templates(plane: ControlPlane) -> dict[str, Any]:
    """Return the pod template of every workload."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for kind in KINDS
        for one in plane.call("GET", f"{APPS}/{kind}")["items"]
    }


@pytest.mark.slow
@needs_kubernetes()
def test_a_rotated_secret_restarts_its_readers(plane: ControlPlane, tmp_path: Path) -> None:
    """With the chart's own Role and settings; helm and appliers afterwards see no difference."""
    upgrade(plane)
    run_jobs(plane, tmp_path)
    wanted = settings(named(render(SHIPPED)))
    log_in(plane, tmp_path)
    names = ("NAMESPACE", "DEPLOYMENT", "PRIORITY_CLASS_PREFIX")
    restarts = ("RESTART_SECRETS", "RESTART_STATEFUL_SETS")
    given = {name: wanted[name] for name in (*names, *restarts)}
    before = templates(plane)
    with orchestrator(tmp_path, **given, secret_settle_s="0.2", secret_interval_s="0.5"):
        until(lambda: _all_known(plane), "recorded")
        recorded = templates(plane)
        plane.merge(f"{SECRETS}/bem-fleet-redis", {"stringData": {"gateway": "rotated"}})
        until(lambda: restarted(plane) == {"redis"}, "Redis first")
        make_all_ready(plane)
        until(lambda: restarted(plane) == {"redis", "gateway"}, "then the gateway")
        plane.merge(f"{SECRETS}/bem-fleet-keys", {"stringData": {"audit": "new\nold"}})
        served = {one.name for one in missions(load_descriptors())}
        writers = {"witness", "orchestrator", "validation", *served}
        until(lambda: "witness" in restarted(plane), "the witness, which verifies, first")
        make_all_ready(plane)
        until(lambda: restarted(plane) == {"redis", "gateway", *writers}, "then who writes")
    rotated = templates(plane)
    done = helm(plane, "upgrade", "bem-fleet", "charts/", "--reuse-values")

    assert recorded == before
    assert done.returncode == 0, done.stderr
    assert templates(plane) == rotated


def _all_known(plane: ControlPlane) -> bool:
    return all(
        "fleet.bem.dev/known-secrets" in one["metadata"].get("annotations", {})
        for kind in KINDS
        for one in plane.call("GET", f"{APPS}/{kind}")["items"]
    )


@pytest.mark.parametrize(
    ("values", "sets", "secrets", "stateful"),
    [
        (SHIPPED, (), {"keys", "redis"}, ["redis", "witness"]),
        (SHIPPED, ("orchestration.restartsPods=false",), set(), []),
        (SHIPPED, ("redis.auth.existingSecret=own",), {"keys", "own"}, ["redis", "witness"]),
        (EXTERNAL, ("redis.external.existingSecret=own",), {"keys", "own"}, ["witness"]),
        (EXTERNAL, (), {"keys", "fleet-redis"}, ["witness"]),
    ],
)
def test_the_role_is_bound_to_what_is_restarted(
    values: Path, sets: tuple[str, ...], secrets: set[str], stateful: list[str]
) -> None:
    """Settings and rights name the same Secrets; turned off there are neither."""
    found = named(render(values, *sets))
    rules = found["Role", "bem-fleet-orchestrator"]["rules"]
    granted = {one["resources"][0]: one.get("resourceNames", []) for one in rules}
    given = settings(found)
    full = {name if name in ("own", "fleet-redis") else f"bem-fleet-{name}" for name in secrets}
    sets_in_order = [f"bem-fleet-{name}" for name in stateful]

    assert set(json.loads(given.get("RESTART_SECRETS", "[]"))) == full
    assert json.loads(given.get("RESTART_STATEFUL_SETS", "[]")) == sets_in_order
    assert set(granted.get("secrets", [])) == full
    assert granted.get("statefulsets", []) == sets_in_order


@pytest.mark.slow
@needs_kubernetes()
def test_what_only_helm_sees_is_in_no_template(plane: ControlPlane, tmp_path: Path) -> None:
    """Rendering without a cluster gives helm's pod templates, so that adoption restarts nothing."""
    own = ("redis.auth.existingSecret=own",)
    users = yaml.safe_load(Path("charts/files/redis-users.yaml").read_text())
    secret = {"metadata": {"name": "own"}, "stringData": dict.fromkeys(users, "word")}
    plane.call("POST", SECRETS, secret)
    upgrade(plane, *own)
    run_jobs(plane, tmp_path)
    upgrade(plane, *own)
    text = render(SHIPPED, *own)
    words = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-")
    before = templates(plane)
    applied = kubectl(plane, "apply", *words, stdin=text)

    assert applied.returncode == 0, applied.stderr
    assert templates(plane) == before
