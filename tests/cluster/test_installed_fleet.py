"""Installed fleet: completions, `helm test`, ports, container security and refused upgrades."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.cluster.client import complete
from tests.cluster.kubernetes_cli import CommandError, Release

pytestmark = [pytest.mark.stage("installed"), pytest.mark.e2e, pytest.mark.timeout(1500)]

# Connects to every port of its own pod and prints those that accept. From the pod's own address a
# socket would meet itself at the port that it was given.
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        probe.bind(("127.0.0.1", 0))
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


def test_installed_fleet_answers(release: Release) -> None:
    """With the shipped values `helm install --wait` returns when the model answers."""
    assert "Paris" in complete(release)


def test_image_lists_its_packages(release: Release) -> None:
    """The bill of materials in an image has its Python and Debian packages."""
    bill = "/usr/share/sbom/packages.cdx.json"
    printed = release.kubectl("exec", "deploy/bem-fleet-gateway", "--", "cat", bill)

    kinds = {one["purl"].partition("@")[0] for one in json.loads(printed)["components"]}
    assert {"pkg:pypi/fastapi", "pkg:pypi/grpcio", "pkg:deb/debian/libc6"} <= kinds
    assert "pkg:pypi/torch" not in kinds


def test_callers_without_a_key_are_refused(release: Release) -> None:
    """Users need a key in a cluster, and a user's key is no operator's."""
    with release.port_forward("gateway", 8080) as port:
        url = f"http://127.0.0.1:{port}/v1"
        wrong = {"Authorization": "Bearer wrong"}
        codes = [
            httpx.get(f"{url}{path}", headers=headers, timeout=60).status_code
            for path in ("/models", "/validation/claims")
            for headers in ({}, wrong, release.headers(), release.headers("operator"))
        ]

    assert codes == [401, 401, 200, 200, 401, 401, 403, 200]


def test_helm_test_passes(release: Release) -> None:
    """`helm test` completes over HTTP and gRPC inside the cluster, and sends feedback."""
    logs = release.helm("test", "--logs", "--timeout", "5m")

    assert "router: " in logs
    assert "feedback: " in logs


def test_mission_pod_opens_only_the_sidecars_ports(release: Release) -> None:
    """Of 65,535 ports of a mission's pod, the sidecar's gRPC, metrics and health ports accept.

    The pod asks itself, as policies refuse every other pod most of them.
    """
    pod = release.pod("router")
    where = ("exec", pod["metadata"]["name"], "-c", "safety", "--", "python", "-c")
    open_ports = release.kubectl(*where, SCAN, pod["status"]["podIP"], timeout_s=600)

    assert open_ports.split() == ["9464", "9465", "50051"]


def test_containers_run_unprivileged(release: Release) -> None:
    """Containers do not run as root and have a read-only root file system."""
    shell = "id -u; touch /app/x 2>&1 || true"
    output = release.kubectl("exec", "deploy/bem-fleet-gateway", "--", "sh", "-c", shell)

    assert output.startswith("65532\n")
    assert "Read-only file system" in output


@pytest.mark.parametrize("service", ["gateway", "router", "validation", "orchestrator"])
def test_images_check_their_own_health(release: Release, service: str) -> None:
    """The HEALTHCHECK command of each image succeeds in its container."""
    container = ("exec", f"deploy/bem-fleet-{service}", "-c", service)
    release.kubectl(*container, "--", "python", "/app/health_check.py")


@pytest.mark.parametrize("service", ["gateway", "orchestrator", "validation"])
def test_control_plane_holds_no_torch(release: Release, service: str) -> None:
    """Images of services without a model do not contain torch."""
    with pytest.raises(CommandError, match="No module named 'torch'"):
        release.kubectl("exec", f"deploy/bem-fleet-{service}", "--", "python", "-c", "import torch")


def test_invalid_value_leaves_the_release_unchanged(release: Release) -> None:
    """An unknown value stops the upgrade by name, and no revision is added."""
    before = release.revision()
    with pytest.raises(CommandError, match="additional properties 'replica' not allowed"):
        release.helm("upgrade", "charts", "--set", "services.router.replica=2")

    assert release.revision() == before
