"""Autoscaling of a mission: the chart's autoscaler, the metrics APIs and real traffic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.client import ask_mission, send_continuously
from tests.cluster.kubernetes_cli import Release, wait_for
from tests.cluster.metrics_adapter import metrics_adapter
from tests.support.prometheus import Prometheus

pytestmark = [pytest.mark.stage("autoscaling"), pytest.mark.e2e, pytest.mark.timeout(900)]
MISSION = "sep"
SCALING = f"services.{MISSION}.autoscaling"
# The chart's five minutes until pods are taken back are not waited for.
AT_ONCE = '{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}'


def test_pods_follow_the_queue_and_sleep(
    release: Release, prometheus: Prometheus, tmp_path: Path
) -> None:
    """An idle mission loses its last pod; a request brings it back and is answered.

    A queue then asks for a second pod, and after it both are given back. No request fails, and the
    Mission is scaled, not its Deployment.
    """

    def pods() -> int:
        component = "app.kubernetes.io/component"
        found = [pod["metadata"]["labels"][component] for pod in release.objects("pods")]
        return found.count(MISSION)

    def wanted() -> int:
        return int(release.mission(MISSION)["spec"]["replicas"])

    values = (f"{SCALING}.enabled=true", f"{SCALING}.minReplicas=0", f"{SCALING}.queueDepth=1")
    idle = ("services.gateway.settings.IDLE_AFTER_S=5", f"{SCALING}.maxReplicas=2")
    # A slow machine's queue is long; what must not fail here is not to be shed.
    patient = (f"services.{MISSION}.settings.QUEUE_S=300",)
    options = [word for one in (*values, *idle, *patient) for word in ("--set", one)]
    with metrics_adapter(prometheus, tmp_path):
        release.helm("upgrade", "charts", "--reuse-values", *options, "--wait")
        release.kubectl("patch", "hpa", f"{release.name}-{MISSION}", "-p", AT_ONCE)
        try:
            wait_for(lambda: (wanted(), pods()) == (0, 0), "no pod", limit_s=180)
            answer = ask_mission(release, MISSION)
            asked = {"prompt": "Tell a long story of the sea.", "max_tokens": 64}
            path = f"/v1/missions/{MISSION}/Generate"
            with ThreadPoolExecutor(1) as executor:
                traffic = executor.submit(
                    send_continuously, release, 30, asked, path=path, concurrency=12
                )
                wait_for(lambda: (wanted(), pods()) == (2, 2), "two pods")
                counts = traffic.result()
            wait_for(lambda: (wanted(), pods()) == (0, 0), "no pod again", limit_s=180)
        finally:
            off = ("--set", f"{SCALING}.enabled=false", "--set", f"{SCALING}.minReplicas=1")
            release.helm("upgrade", "charts", "--reuse-values", *off, "--wait")
            release.kubectl("scale", "mission", MISSION, "--replicas=1")
            release.wait_for_rollout()

    assert answer["text"]
    assert counts["sent"] > 12
    assert counts["failed"] == []
