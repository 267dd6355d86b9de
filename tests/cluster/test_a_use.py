"""The fleet as `helm install bem-fleet charts/ --wait` leaves it, used and attacked."""

from __future__ import annotations

import pytest

from tests.cluster.kubernetes_cli import CommandError, Release
from tests.cluster.talking import answer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

# Tries every port of a pod and prints those that answer.
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


def test_installed_fleet_answers(release: Release) -> None:
    """With the shipped values `helm install --wait` ends when the real model answers."""
    assert "Paris" in answer(release)


def test_helm_test_passes(release: Release) -> None:
    """`helm test` asks by HTTP and by gRPC inside the cluster, and gives feedback."""
    said = release.helm("test", "--logs", "--timeout", "5m")

    assert "router: " in said
    assert "feedback: " in said


def test_mission_has_no_port_but_the_sidecars(release: Release) -> None:
    """Of all 65,535 ports of the mission's pod, two answer: the judged one and the metrics."""
    address = release.pod("router")["status"]["podIP"]
    scan = ("exec", "deploy/bem-fleet-validation", "--", "python", "-c", SCAN, address)
    found = release.kubectl(*scan, timeout_s=600)

    assert found.split() == ["9464", "50051"]


def test_pods_run_as_asked(release: Release) -> None:
    """Containers run without root and cannot write to their root."""
    shell = "id -u; touch /app/x 2>&1 || true"
    said = release.kubectl("exec", "deploy/bem-fleet-gateway", "--", "sh", "-c", shell)

    assert said.startswith("65532\n")
    assert "Read-only file system" in said


@pytest.mark.parametrize("service", ["gateway", "router", "validation", "orchestrator"])
def test_images_check_their_own_health(release: Release, service: str) -> None:
    """What HEALTHCHECK runs finds each service alive in its own container."""
    container = ("exec", f"deploy/bem-fleet-{service}", "-c", service)
    release.kubectl(*container, "--", "python", "/app/health_check.py")


@pytest.mark.parametrize("service", ["gateway", "orchestrator", "validation"])
def test_control_plane_holds_no_torch(release: Release, service: str) -> None:
    """An image without a model has no torch that it could import."""
    with pytest.raises(CommandError, match="No module named 'torch'"):
        release.kubectl("exec", f"deploy/bem-fleet-{service}", "--", "python", "-c", "import torch")


def test_wrong_upgrade_changes_nothing(release: Release) -> None:
    """A value that does not exist stops the upgrade with its name; the release stays as it is."""
    before = release.revision()
    with pytest.raises(CommandError, match="additional properties 'replica' not allowed"):
        release.helm("upgrade", "charts", "--set", "bem_fleet.services.router.replica=2")

    assert release.revision() == before
