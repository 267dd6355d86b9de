"""`helm rollback` and `helm uninstall`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.kubernetes_cli import Release, run
from tests.cluster.talking import answer, ask_on, give_feedback, kept

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_rollback_keeps_data_and_answers(release: Release) -> None:
    """Back to the first revision, after canaries too: no request fails and no record is lost."""
    record = give_feedback(release)
    with ThreadPoolExecutor(1) as beside:
        counting = beside.submit(ask_on, release, 45)
        release.helm("rollback", "1", "--wait", "--timeout", "10m")
        counted = counting.result()
    release.rolled_out()

    assert counted["failed"] == []
    assert release.pod("gateway")
    assert kept(release, record)
    assert "Paris" in answer(release)


def test_edge_speaks_https(release: Release, tmp_path: Path) -> None:
    """With a certificate's Secret the gateway answers `helm test` by HTTPS, verified."""
    pair = [tmp_path / "tls.key", tmp_path / "tls.crt"]
    name = f"{release.name}-gateway.{release.namespace}.svc"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    run(*made, "-keyout", pair[0], "-out", pair[1])
    files = [f"--from-file={path.name}={path}" for path in pair]
    authority = f"--from-file=ca.crt={pair[1]}"
    release.kubectl("create", "secret", "generic", "edge", *files, authority)
    secret = ["--set", "bem_fleet.services.gateway.tls.existingSecret=edge"]
    release.helm("upgrade", "charts", *secret, "--wait", "--timeout", "5m")
    said = release.helm("test", "--logs", "--timeout", "5m")
    release.kubectl("delete", "secret", "edge")

    assert "feedback: " in said


def test_uninstall_leaves_nothing(release: Release) -> None:
    """`helm uninstall` removes every object: missions, their lease, the volume's claim too."""
    release.helm("uninstall", "--wait", "--timeout", "5m")
    kinds = "all,pvc,secret,configmap,serviceaccount,networkpolicy,pdb,role,rolebinding,missions"
    limit = time.monotonic() + 120
    while (left := release.objects(kinds)) and time.monotonic() < limit:
        time.sleep(1)  # the claim goes when the controller has seen the pod go

    assert [each["metadata"]["name"] for each in left] == []
    assert release.objects("priorityclasses,clusterroles,clusterrolebindings") == []
    others = release.kubectl("get", "leases,deployments,pods,services", "-o", "name")
    assert others == ""
    assert release.name not in run("helm", "list", "-q", "-n", release.namespace)
