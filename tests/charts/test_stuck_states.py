"""The ways out of stuck states that the operations guide gives, at a real API server and Redis."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fleet.embedded_redis import redis_command
from fleet.testing import free_port

from tests.charts.rendering import CHART
from tests.charts.test_live_release import MISSION, replicas
from tests.charts.test_made_secrets import kubectl, plane, secrets, shared, start_job, upgrade
from tests.charts.test_secret_rotation import log_in
from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.integration.orchestrators import orchestrator, until

__all__ = ["plane", "shared"]
pytestmark = pytest.mark.slow
HPAS = "/apis/autoscaling/v2/namespaces/fleet/horizontalpodautoscalers"
KEDA = "/apis/keda.sh/v1alpha1/namespaces/fleet/scaledobjects"
JOBS = "/apis/batch/v1/namespaces/fleet/jobs"
# KEDA itself is not here: what is tested is which objects the chart has at each step.
SCALED_OBJECT: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "scope": "Namespaced",
        "names": {"kind": "ScaledObject", "plural": "scaledobjects"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


def names(plane: ControlPlane, path: str) -> list[str]:
    """Return the names of a kind's objects."""
    return [one["metadata"]["name"] for one in plane.call("GET", path)["items"]]


@needs_kubernetes()
def test_an_autoscaler_without_a_metric_is_turned_off(plane: ControlPlane) -> None:
    """`autoscaling.enabled=false` removes it, and the pods stay as many as they are."""
    upgrade(plane, "services.gateway.replicas=4", "services.gateway.autoscaling.enabled=true")
    on = names(plane, HPAS)
    upgrade(plane, "services.gateway.replicas=4", "services.gateway.autoscaling.enabled=false")

    assert on == ["bem-fleet-gateway"]
    assert names(plane, HPAS) == []
    assert replicas(plane) == 4


@needs_kubernetes()
def test_an_hpa_becomes_a_scaled_object(plane: ControlPlane) -> None:
    """KEDA refuses a workload that an HPA has, so there is a step with neither."""
    kubectl(plane, "apply", "-f", "-", stdin=json.dumps(SCALED_OBJECT))
    # The API server first refuses a new resource, then asks to come back while its storage starts.
    until(lambda: kubectl(plane, "get", "scaledobjects").returncode == 0, "the resource is served")
    scaling = "services.sep.autoscaling"
    seen = []
    try:
        for sets in (
            (f"{scaling}.enabled=true",),
            (f"{scaling}.enabled=false",),
            (f"{scaling}.enabled=true", f"{scaling}.kind=keda", f"{scaling}.prometheus=http://p:1"),
        ):
            upgrade(plane, *sets)
            seen.append((names(plane, HPAS), names(plane, KEDA)))
        (made,) = plane.call("GET", KEDA)["items"]
    finally:
        kubectl(plane, "delete", "crd", "scaledobjects.keda.sh")

    assert seen == [(["bem-fleet-sep"], []), ([], []), ([], ["bem-fleet-sep"])]
    assert made["spec"]["scaleTargetRef"]["kind"] == "Mission"


@needs_kubernetes()
def test_the_secrets_job_names_what_was_refused(plane: ControlPlane, tmp_path: Path) -> None:
    """Its log has the right that is missing; given it, the same pod makes all Secrets."""
    upgrade(plane)
    log_in(plane, tmp_path, account="bem-fleet-witness")
    rights = tmp_path / "kubeconfig"
    with start_job(plane, tmp_path, rights) as job:
        assert job.stderr
        said = next(line for line in job.stderr if line.startswith("attempt"))
        before = secrets(plane)
        rights.write_text(plane.kubeconfig.read_text())
        _, rest = job.communicate(timeout=60)

    assert 'User "system:serviceaccount:fleet:bem-fleet-witness" cannot get resource' in said
    assert "bem-fleet-redis" not in before
    assert job.returncode == 0, rest
    assert "bem-fleet-redis" in secrets(plane)


@needs_kubernetes()
def test_an_orchestrator_without_rights_names_them(plane: ControlPlane, tmp_path: Path) -> None:
    """Nobody leads without the Role; its log says so, and applying the chart again mends it."""
    sets = ("orchestration.seesNodes=false", "priorityClasses.create=false")
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/fleet/rolebindings"
    settings = {"namespace": "fleet", "foreign_pods": "false", "priority_class_prefix": ""}
    log = tmp_path / "orchestrator.log"
    upgrade(plane, *sets)
    log_in(plane, tmp_path)
    plane.call("DELETE", bindings)
    with orchestrator(tmp_path, **settings) as pod:
        until(lambda: log.exists() and '"stopped"' in log.read_text(), "the pod's end")
        said = log.read_text()
        before = plane.call("GET", MISSION).get("status")
        upgrade(plane, *sets)
        pod.end()
        pod.start()  # as the kubelet does
        until(lambda: plane.call("GET", MISSION).get("status"), "a status")

    assert ":bem-fleet-orchestrator" in said
    assert " cannot list resource " in said
    assert "in the namespace" in said
    assert before is None


def output(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        (None, "has no password in the key 'gateway'; add it"),
        ("with/slash", "has a character that a URL cannot carry"),
        ("line\n", "has a character that a URL cannot carry"),
    ],
)
def test_redis_starts_when_the_secret_is_corrected(
    tmp_path: Path, password: str | None, reason: str
) -> None:
    """The container's start names key and fault, and reads the Secret anew at its next start."""
    port = free_port()
    (folder := tmp_path / "secret").mkdir()
    (tmp_path / "rules").write_text("gateway +@all ~*\n")
    (tmp_path / "redis.conf").write_text(f"port {port}\nbind 127.0.0.1\ndaemonize yes\n")
    server = Path(redis_command(port, tmp_path)[0])
    environment = {
        "PATH": f"{server.parent}:{os.environ['PATH']}",
        "REDIS_RULES": str(tmp_path / "rules"),
        "REDIS_PASSWORDS": str(folder),
        "REDIS_ACL": str(tmp_path / "users.acl"),
        "REDIS_CONFIG": str(tmp_path / "redis.conf"),
    }

    def start() -> subprocess.CompletedProcess[str]:
        command = ["sh", str(CHART / "files" / "start_redis.sh")]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    if password is not None:
        (folder / "gateway").write_text(password)
    refused = start()
    (folder / "gateway").write_text("letters1")
    started = start()
    client = (str(server.with_name("redis-cli")), "-p", str(port))
    stranger = output(*client, "PING")
    user = (*client, "--no-auth-warning", "--user", "gateway", "--pass", "letters1")
    pong = output(*user, "PING")
    output(*user, "SHUTDOWN", "NOSAVE")

    assert refused.returncode == 1
    assert "redis.auth.existingSecret:" in refused.stderr
    assert reason in refused.stderr
    assert started.returncode == 0, started.stderr
    assert pong == "PONG"
    assert "NOAUTH" in stranger
