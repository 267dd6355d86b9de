"""The view: who is told of what."""

from __future__ import annotations

import asyncio
from typing import cast

from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

from tests.unit.services.orchestrator.missions import raw_mission

MISSION = raw_mission(model="passage-qa")


def test_own_writes_are_told_to_who_listens() -> None:
    """A status that the orchestrator wrote reaches the routes' followers, and wakes no reconcile.

    Its event changes nothing in the cache any more, so that nobody would be told later.
    """
    view = ClusterView(cast("KubeApi", None), OrchestratorSettings(namespace="fleet"))
    listener = asyncio.Event()
    view.listeners.add(listener)

    view.missions.apply_write({**MISSION, "status": {"canary": {"phase": "Canary", "weight": 50}}})

    assert listener.is_set()
    assert not view.changed.is_set()
