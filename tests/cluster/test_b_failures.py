"""What breaks is mended by Kubernetes and the fleet, and nothing that was promised is lost."""

from __future__ import annotations

import pytest

from tests.cluster.kubernetes_cli import Release, run
from tests.cluster.talking import answer, give_feedback, kept

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_feedback_outlives_its_redis(release: Release) -> None:
    """A record that was answered with 201 is there after Redis' pod was killed without a word."""
    record = give_feedback(release)
    release.kubectl("delete", "pod", "bem-fleet-redis-0", "--grace-period=0", "--force")
    release.rolled_out()

    assert kept(release, record)


def test_killed_mission_comes_back(release: Release) -> None:
    """A mission's pod that is killed is replaced, and the fleet answers as before."""
    name = release.pod("router")["metadata"]["name"]
    release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    release.rolled_out()

    assert release.pod("router")["metadata"]["name"] != name
    assert "Paris" in answer(release)


def test_drained_node_is_left_and_found_again(release: Release) -> None:
    """A drain takes every pod off the mission's node; given back, it serves with all data."""
    record = give_feedback(release)
    node = release.pod("router")["spec"]["nodeName"]
    try:
        release.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"
        )
        left = [p for p in release.objects("pods") if p["spec"].get("nodeName") == node]
    finally:
        run("kubectl", "uncordon", node)
    release.rolled_out()

    assert left == []
    assert kept(release, record)
    assert "Paris" in answer(release)
