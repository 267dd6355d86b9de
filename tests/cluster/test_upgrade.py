"""Upgrade under load: no failed request and no lost record."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.client import complete, give_feedback, is_stored, send_continuously
from tests.cluster.kubernetes_cli import ROOT, Release
from tests.support.processor import runs_native_kernels

pytestmark = [pytest.mark.stage("upgrade"), pytest.mark.e2e, pytest.mark.timeout(1500)]
SECRETS = (
    "get",
    "secret",
    "bem-fleet-redis",
    "bem-fleet-access",
    "bem-fleet-ca",
    "bem-fleet-client-tls",
    "bem-fleet-router-tls",
    "-o",
    "jsonpath={.items[*].data}",
)


def test_upgrade_keeps_data_and_answers(release: Release, adapters: str) -> None:
    """An upgrade replaces gateway and router; requests succeed and the record is stored.

    The gateway is pinned to the digest of its image, where it was built here.
    Weights of 4 bits are the upgrade only where the node's processor runs the project's kernels:
    torch's are so slow that every later test of this release would starve.
    """
    native = runs_native_kernels()  # this machine is the node
    record = give_feedback(release)
    secret = release.kubectl(*SECRETS)
    values = [
        "services.gateway.settings.MAX_BODY_BYTES=2097152",
        "services.gateway.replicas=2",
        f"services.router.settings.WEIGHTS={'int4' if native else 'fp32'}",
        f"services.router.model.adaptersClaim={adapters}",
    ]
    built = ROOT / ".cache" / "images" / "gateway"
    if built.exists():
        values.append(f"services.gateway.image.digest={built.read_text().strip()}")
    options = [part for value in values for part in ("--set", value)]
    with ThreadPoolExecutor(1) as executor:
        traffic = executor.submit(send_continuously, release, 60)
        release.helm("upgrade", "charts", *options, "--wait", "--timeout", "10m")
        counts = traffic.result()
    release.wait_for_rollout()

    assert counts["sent"] > 50
    assert counts["failed"] == []
    assert release.kubectl(*SECRETS) == secret
    assert is_stored(release, record)
    assert "Paris" in complete(release)
    if built.exists():
        images = {pod["spec"]["containers"][0]["image"] for pod in release.objects("pods")}
        assert f"localhost/bem-fleet/gateway@{built.read_text().strip()}" in images
    assert kernels(release).startswith("native" if native else "torch")


def kernels(release: Release) -> str:
    """Return the kernels that the router's log names."""
    log = release.kubectl("logs", "deploy/bem-fleet-router", "-c", "router")
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return next(str(entry["kernels"]) for entry in entries if entry["event"] == "weights")
