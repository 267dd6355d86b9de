"""Helm rollback, HTTPS at the edge, and uninstallation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.client import complete, give_feedback, is_stored, send_continuously
from tests.cluster.kubernetes_cli import Release, run

pytestmark = [pytest.mark.stage("removal"), pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_rollback_keeps_data_and_answers(release: Release) -> None:
    """A rollback to the first revision, after canaries: no failed request, no lost record."""
    record = give_feedback(release)
    with ThreadPoolExecutor(1) as executor:
        traffic = executor.submit(send_continuously, release, 45)
        release.helm("rollback", "1", "--wait", "--timeout", "10m")
        counts = traffic.result()
    release.wait_for_rollout()

    assert counts["failed"] == []
    assert release.pod("gateway")
    assert is_stored(release, record)
    assert "Paris" in complete(release)


def test_gateway_serves_https(release: Release, tmp_path: Path) -> None:
    """With a certificate in a Secret the gateway serves HTTPS, which `helm test` verifies."""
    pair = [tmp_path / "tls.key", tmp_path / "tls.crt"]
    name = f"{release.name}-gateway.{release.namespace}.svc"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    run(*openssl, "-keyout", pair[0], "-out", pair[1])
    files = [f"--from-file={path.name}={path}" for path in pair]
    authority = f"--from-file=ca.crt={pair[1]}"
    release.kubectl("create", "secret", "generic", "edge", *files, authority)
    secret = ["--set", "services.gateway.tls.existingSecret=edge"]
    release.helm("upgrade", "charts", *secret, "--wait", "--timeout", "5m")
    logs = release.helm("test", "--logs", "--timeout", "5m")
    release.kubectl("delete", "secret", "edge")

    assert "feedback: " in logs


def test_uninstall_leaves_nothing(release: Release) -> None:
    """`helm uninstall` removes every object, also missions, the Lease and the volume claim."""
    release.helm("uninstall", "--wait", "--timeout", "5m")
    kinds = "all,pvc,secret,configmap,serviceaccount,networkpolicy,pdb,role,rolebinding,missions"
    limit = time.monotonic() + 120
    while (remaining := release.objects(kinds)) and time.monotonic() < limit:
        time.sleep(1)  # the claim is deleted after the controller has seen the pod end

    assert [each["metadata"]["name"] for each in remaining] == []
    assert release.objects("priorityclasses,clusterroles,clusterrolebindings") == []
    others = release.kubectl("get", "leases,deployments,pods,services", "-o", "name")
    assert others == ""
    assert release.name not in run("helm", "list", "-q", "-n", release.namespace)
