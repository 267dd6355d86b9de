"""Recovery: killed pods and drained nodes, without loss of acknowledged records."""

from __future__ import annotations

import pytest

from tests.cluster.client import complete, give_feedback, is_stored
from tests.cluster.kubernetes_cli import Release, run

pytestmark = [pytest.mark.stage("recovery"), pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_feedback_survives_a_redis_kill(release: Release) -> None:
    """A record that was acknowledged by 201 is stored after a forced deletion of Redis' pod."""
    record = give_feedback(release)
    release.kubectl("delete", "pod", "bem-fleet-redis-0", "--grace-period=0", "--force")
    release.wait_for_rollout()

    assert is_stored(release, record)


def test_killed_mission_is_replaced(release: Release) -> None:
    """A force-deleted mission pod is replaced, and the fleet completes requests again."""
    name = release.pod("router")["metadata"]["name"]
    release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    release.wait_for_rollout()

    assert release.pod("router")["metadata"]["name"] != name
    assert "Paris" in complete(release)


def test_node_drain_evicts_and_recovers(release: Release) -> None:
    """A drain evicts every pod of the node; after uncordoning, the fleet serves with all data."""
    record = give_feedback(release)
    node = release.pod("router")["spec"]["nodeName"]
    try:
        release.kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"
        )
        remaining = [p for p in release.objects("pods") if p["spec"].get("nodeName") == node]
    finally:
        run("kubectl", "uncordon", node)
    release.wait_for_rollout()

    assert remaining == []
    assert is_stored(release, record)
    assert "Paris" in complete(release)
