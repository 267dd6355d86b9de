"""Cluster view: which changes notify whom."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bem_fleet.services.orchestrator.cluster_view import ClusterView, PodUse, _read_pod
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

from tests.unit.services.orchestrator.missions import raw_mission

MISSION = raw_mission(model="passage-qa")


def test_own_writes_notify_listeners_only() -> None:
    """A status that the orchestrator wrote reaches route watchers, and triggers no reconciling.

    Its watch event changes nothing in the informer any more, so there is no later notification.
    """
    view = ClusterView(cast("KubeApi", None), OrchestratorSettings(namespace="fleet"))
    listener = asyncio.Event()
    view.listeners.add(listener)

    view.missions.apply_write({**MISSION, "status": {"canary": {"phase": "Canary", "weight": 50}}})

    assert listener.is_set()
    assert not view.changed.is_set()


def test_pods_of_the_fleet_are_told_from_others() -> None:
    """Foreign ones count by their GPUs, those of missions by node and track until they end."""
    ours = {"fleet.bem.dev/mission": "router", "fleet.bem.dev/track": "stable"}
    limits = {"limits": {"nvidia.com/gpu": "2"}}

    def pod(labels: dict[str, str], phase: str = "Running", **metadata: str) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "fleet", "labels": labels, **metadata},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "resources": limits}]},
            "status": {"phase": phase},
        }

    assert _read_pod(pod({})) == PodUse("a", 2)
    assert _read_pod(pod(ours)) == PodUse("a", 0, ("fleet", "router", "stable"))
    assert _read_pod(pod(ours, deletionTimestamp="2026-01-01T00:00:00Z")) is None
    assert _read_pod(pod({}, phase="Succeeded")) is None
