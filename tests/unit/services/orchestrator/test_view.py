"""The view: who is told of what."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import Api
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

MISSION: dict[str, Any] = {
    "metadata": {
        "name": "router",
        "namespace": "fleet",
        "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {"model": "passage-qa"},
    "status": {},
}


def test_own_writes_are_told_to_who_listens() -> None:
    """A status that the orchestrator wrote reaches the routes' followers, and wakes no reconcile.

    Its event changes nothing in the cache any more, so that nobody would be told later.
    """
    view = ClusterView(cast(Api, None), OrchestratorSettings(namespace="fleet"))
    listener = asyncio.Event()
    view.listeners.add(listener)

    view.missions.put({**MISSION, "status": {"canary": {"phase": "Canary", "weight": 50}}})

    assert listener.is_set()
    assert not view.changed.is_set()
