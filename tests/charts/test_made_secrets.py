"""Secrets that a Job makes in the cluster: rendering is deterministic, and the fleet keeps them."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.descriptors import load_descriptors
from bem_fleet.redis_users import redis_users
from fleet.access.keys import KeysFile, key_digest
from fleet.certificates import CertificateFolder

from tests.charts.rendering import CHART, VALUE_SETS, objects, render
from tests.integration.clusters import ControlPlane, control_plane, needs_kubernetes
from tests.support.requirements import require

SHIPPED = next(path for path in VALUE_SETS if path.name.startswith("shipped"))
SECRETS = "/api/v1/namespaces/fleet/secrets"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the Mission resource."""
    with control_plane(tmp_path_factory.mktemp("plane")) as made:
        yield made


@pytest.fixture
def plane(shared: ControlPlane) -> Iterator[ControlPlane]:
    """The API server with an empty namespace ``fleet``."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fleet"}}
    with_none = shared.call("GET", "/api/v1/namespaces")["items"]
    if "fleet" not in {one["metadata"]["name"] for one in with_none}:
        shared.call("POST", "/api/v1/namespaces", namespace)
    yield shared
    delete_release(shared)


def delete_release(plane: ControlPlane) -> None:
    """Delete everything of the namespace: a bare API server has no controller that would."""
    where = "namespaces/fleet"
    for kind in ("secrets", "services", "configmaps", "serviceaccounts"):
        for one in plane.call("GET", f"/api/v1/{where}/{kind}")["items"]:
            plane.call("DELETE", f"/api/v1/{where}/{kind}/{one['metadata']['name']}")
    for group, kinds in {
        "apps/v1": ("deployments", "statefulsets"),
        "batch/v1": ("jobs",),
        "networking.k8s.io/v1": ("networkpolicies",),
        "rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
        "policy/v1": ("poddisruptionbudgets",),
        "fleet.bem.dev/v1alpha1": ("missions",),
    }.items():
        for kind in kinds:
            plane.call("DELETE", f"/apis/{group}/{where}/{kind}?propagationPolicy=Background")
    for kind in ("clusterroles", "clusterrolebindings"):
        path = f"/apis/rbac.authorization.k8s.io/v1/{kind}"
        plane.call("DELETE", f"{path}?labelSelector=app.kubernetes.io/part-of=bem-fleet")
    plane.call("DELETE", "/apis/scheduling.k8s.io/v1/priorityclasses?labelSelector=x!=y")


def kubectl(plane: ControlPlane, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run kubectl as an administrator."""
    command = [require("kubectl"), "--kubeconfig", str(plane.kubeconfig), "-n", "fleet", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def helm(plane: ControlPlane, *words: str) -> subprocess.CompletedProcess[str]:
    """Run helm on the release ``bem-fleet``."""
    command = [require("helm"), "--kubeconfig", str(plane.kubeconfig), "-n", "fleet", *words]
    folder = {"HELM_CACHE_HOME": str(plane.folder / "helm")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **folder}
    )


def upgrade(plane: ControlPlane, *sets: str) -> None:
    """Install the release or upgrade it."""
    options = [word for one in sets for word in ("--set", one)]
    done = helm(plane, "upgrade", "--install", "bem-fleet", str(CHART), *options)
    assert done.returncode == 0, done.stderr


def run_jobs(plane: ControlPlane, folder: Path) -> None:
    """Play the Job controller: run the script of the Job that is in the cluster."""
    with start_job(plane, folder, plane.kubeconfig) as job:
        _, log = job.communicate()
    assert job.returncode == 0, log


def start_job(plane: ControlPlane, folder: Path, kubeconfig: Path) -> subprocess.Popen[str]:
    """Start the script of the Job that is in the cluster, with the rights of a kubeconfig."""
    (job,) = plane.call("GET", "/apis/batch/v1/namespaces/fleet/jobs")["items"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (volume,) = (v for v in job["spec"]["template"]["spec"]["volumes"] if "configMap" in v)
    path = f"/api/v1/namespaces/fleet/configmaps/{volume['configMap']['name']}"
    for name, text in plane.call("GET", path)["data"].items():
        (folder / name).write_text(text)
    variables = {one["name"]: one["value"] for one in container["env"]}
    environment = {
        **os.environ,
        **variables,
        "WANTED": str(folder / Path(variables["WANTED"]).name),
        "KUBECONFIG": str(kubeconfig),
    }
    script = folder / Path(container["command"][1]).name
    command = [sys.executable, str(script)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def secrets(plane: ControlPlane) -> dict[str, dict[str, str]]:
    """Return the data of the release's Secrets, decoded, by name."""
    return {
        one["metadata"]["name"]: {
            key: base64.b64decode(value).decode() for key, value in one["data"].items()
        }
        for one in plane.call("GET", SECRETS)["items"]
        if one["type"] != "helm.sh/release.v1"
    }


@pytest.mark.parametrize("values", VALUE_SETS, ids=[path.stem for path in VALUE_SETS])
def test_every_rendering_is_the_same(values: Path) -> None:
    """Without a cluster two renderings are equal byte for byte, and no hook would do harm."""
    text = render(values)
    hooks = {
        one["metadata"]["annotations"]["helm.sh/hook"]
        for one in objects(text)
        if "helm.sh/hook" in one["metadata"].get("annotations", {})
    }

    assert render(values) == text
    # Tools that know no hooks apply them at once: a test is all that may run then.
    assert hooks == {"test"}


def test_shipped_values_render_no_secret() -> None:
    """Each Secret that a pod mounts is made by the Job, and no other is asked for."""
    found = objects(render(SHIPPED))
    (wanted,) = [
        json.loads(one["data"]["wanted.json"])
        for one in found
        if one["kind"] == "ConfigMap" and "wanted.json" in one["data"]
    ]
    made = {wanted[key]["secret"] for key in ("redis", "keys", "access")}
    made |= {wanted["tls"]["authority"], *(one["secret"] for one in wanted["tls"]["certificates"])}
    (role,) = [
        one
        for one in found
        if one["kind"] == "Role" and one["metadata"]["name"].endswith("-secrets")
    ]
    text = yaml.safe_dump([one for one in found if one["kind"] != "ConfigMap"])
    mounted = {
        line.split()[-1] for line in text.splitlines() if line.strip().startswith("secretName:")
    }

    assert not [one for one in found if one["kind"] == "Secret"]
    assert mounted <= made
    assert made - mounted == {"bem-fleet-ca"}
    assert role["rules"][0] == {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}
    assert set(role["rules"][1]["resourceNames"]) == made


@pytest.mark.parametrize(
    "changed", ["image.tag=v2", "access.limits.concurrent=8", "services.other.port=50071"]
)
def test_another_wish_is_another_job(changed: str) -> None:
    """A Job cannot be changed, so another content has another name."""
    names = [
        one["metadata"]["name"]
        for sets in ((), (changed,))
        for one in objects(render(SHIPPED, *sets))
        if one["kind"] == "Job"
    ]

    assert len(set(names)) == 2


@pytest.mark.slow
@needs_kubernetes()
def test_applying_twice_changes_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    """Server-side apply as Argo CD and Flux do: a second apply and a diff find no difference."""
    text = render(SHIPPED)
    tool = ("--server-side", "--field-manager=argocd-controller", "-f", "-")
    first = kubectl(plane, "apply", *tool, stdin=text)
    run_jobs(plane, tmp_path)
    made = secrets(plane)
    again = kubectl(plane, "apply", *tool, stdin=render(SHIPPED))
    run_jobs(plane, tmp_path)
    drift = kubectl(plane, "diff", *tool, stdin=text)
    missions = plane.call("GET", "/apis/fleet.bem.dev/v1alpha1/namespaces/fleet/missions")["items"]

    assert first.returncode == 0, first.stderr
    assert again.returncode == 0, again.stderr
    assert drift.returncode == 0, drift.stdout
    assert secrets(plane) == made
    rendered = {one["metadata"]["name"] for one in objects(text) if one["kind"] == "Mission"}
    assert {one["metadata"]["name"] for one in missions} == rendered >= {"router", "memory"}
    assert not [one for one in missions if one["metadata"].get("deletionTimestamp")]


@pytest.mark.slow
@needs_kubernetes()
def test_made_secrets_are_what_the_fleet_reads(plane: ControlPlane, tmp_path: Path) -> None:
    """Passwords for every user of Redis, keys with their hashes, and certificates of one CA."""
    kubectl(plane, "apply", "--server-side", "-f", "-", stdin=render(SHIPPED))
    run_jobs(plane, tmp_path)
    made = secrets(plane)
    keys = KeysFile.model_validate(yaml.safe_load(made["bem-fleet-access"]["keys.yaml"]))
    (owned,) = [
        one
        for one in plane.call("GET", SECRETS)["items"]
        if one["metadata"]["name"] == "bem-fleet-redis"
    ]

    assert set(made["bem-fleet-redis"]) == set(redis_users(load_descriptors()))
    assert set(made["bem-fleet-keys"]) == {"audit", "feedback"}
    for key in keys.keys:
        assert key.sha256 == (key_digest(made["bem-fleet-access"][f"{key.name}.key"]),)
    assert {key.name: key.role for key in keys.keys} == {
        "operator": "operator",
        "orchestrator": "operator",
        "user": "user",
        "gateway": "service",
        "validation": "service",
    }
    # What goes with the release has an owner in it, whatever tool deletes it.
    owners = [(one["kind"], one["name"]) for one in owned["metadata"]["ownerReferences"]]
    # Older charts have it too, so that a rollback to one does not collect what it owns.
    assert owners == [("ServiceAccount", "bem-fleet-witness")]
    for name in ("client", "router"):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in made[f"bem-fleet-{name}-tls"].items():
            (folder / file).write_text(text)
        assert CertificateFolder(folder).seconds_to_expiry() > 9 * 365 * 86_400


@pytest.mark.slow
@needs_kubernetes()
def test_helm_upgrades_keep_what_was_made(plane: ControlPlane, tmp_path: Path) -> None:
    """Upgrades, a rollback and a switch to a seed and back neither change nor delete a Secret."""
    upgrade(plane)
    run_jobs(plane, tmp_path)
    made = secrets(plane)
    upgrade(plane)
    upgrade(plane, "services.other.port=50071")
    run_jobs(plane, tmp_path)
    grown = secrets(plane)
    upgrade(plane, "redis.auth.password=text", "keys.seed=text")
    seeded = secrets(plane)
    done = helm(plane, "rollback", "bem-fleet", "1")

    assert done.returncode == 0, done.stderr
    assert set(grown) - set(made) == {"bem-fleet-other-tls"}
    changed = {name for name in made if grown[name] != made[name]}
    assert changed == {"bem-fleet-access"}  # the key of the new service
    assert "other.key" in grown["bem-fleet-access"]
    assert seeded["bem-fleet-redis"] != made["bem-fleet-redis"]
    digest = hashlib.sha256(b"text/gateway").hexdigest()
    assert seeded["bem-fleet-redis"]["gateway"] == digest
    assert set(secrets(plane)) >= set(made)


@pytest.mark.slow
@needs_kubernetes()
def test_renewal_makes_certificates_of_the_same_authority(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """Another text in ``tls.renewal`` renews all certificates and keeps the authority."""
    upgrade(plane)
    run_jobs(plane, tmp_path)
    before = secrets(plane)
    upgrade(plane, "tls.renewal=2027")
    run_jobs(plane, tmp_path)
    after = secrets(plane)

    for name in before:
        is_renewed = name.endswith("-tls")
        assert (before[name] != after[name]) is is_renewed, name
    assert after["bem-fleet-router-tls"]["ca.crt"] == before["bem-fleet-ca"]["tls.crt"]


@pytest.mark.slow
@needs_kubernetes()
def test_secrets_of_an_older_chart_are_adopted(plane: ControlPlane, tmp_path: Path) -> None:
    """Secrets that helm rendered stay, also after the revision that rendered them is gone."""
    upgrade(plane, "redis.auth.password=old", "keys.seed=old")
    run_jobs(plane, tmp_path)
    before = secrets(plane)
    upgrade(plane, "redis.auth.password=", "keys.seed=")
    kept = secrets(plane)
    run_jobs(plane, tmp_path)
    upgrade(plane)
    found = {one["metadata"]["name"]: one for one in plane.call("GET", SECRETS)["items"]}

    assert kept == before
    assert {name: set(data) for name, data in secrets(plane).items()} == {
        name: set(data) for name, data in before.items()
    }
    assert secrets(plane)["bem-fleet-redis"] == before["bem-fleet-redis"]
    assert "ownerReferences" in found["bem-fleet-redis"]["metadata"]
