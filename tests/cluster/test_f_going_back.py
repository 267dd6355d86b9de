"""`helm rollback` and `helm uninstall`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

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
