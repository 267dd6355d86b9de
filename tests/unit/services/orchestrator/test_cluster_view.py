"""Cluster view: which changes notify whom."""

from __future__ import annotations

import asyncio
from typing import cast

from bem_fleet.services.orchestrator.cluster_view import ClusterView
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
