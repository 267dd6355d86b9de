"""Cluster view: informers for missions, Deployments, GPU nodes and pods, with one change event."""

import asyncio
from dataclasses import replace
from typing import Any

from bem_fleet.services.orchestrator.assignment.inventory import (
    GpuNode,
    read_node,
    requested_gpu_units,
)
from bem_fleet.services.orchestrator.kube.api import KubeApi, Object
from bem_fleet.services.orchestrator.kube.informer import Informer
from bem_fleet.services.orchestrator.mission import (
    GROUP,
    MISSION_LABEL,
    PLURAL,
    VERSION,
    Mission,
    read_mission,
)
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

# Fields of a Deployment that are never read and make up most of its size in memory.
_UNUSED_METADATA = ("managedFields",)
ForeignPod = tuple[str, int]
"""Node name and GPU units of a pod outside the fleet."""


class ClusterView:
    """Fleet store of a cluster.

    Args:
        api: Connection to the API server.
        settings: Namespace, and whether pods outside the fleet are watched.
    """

    def __init__(self, api: KubeApi, settings: OrchestratorSettings) -> None:
        self.changed = asyncio.Event()
        self.listeners: set[asyncio.Event] = set()
        self._api = api
        self._gpu_nodes: list[GpuNode] | None = None
        namespace = f"namespaces/{settings.namespace}"
        self.missions: Informer[Mission] = Informer(
            api,
            f"/apis/{GROUP}/{VERSION}/{namespace}/{PLURAL}",
            read_mission,
            self._on_change,
            on_local_write=self._notify_listeners,
        )
        self.deployments: Informer[Object] = Informer(
            api,
            f"/apis/apps/v1/{namespace}/deployments",
            _drop_unused_metadata,
            self._on_change,
            selector=MISSION_LABEL,
        )
        self.nodes: Informer[GpuNode] = Informer(
            api, "/api/v1/nodes", read_node, self._on_gpu_change, optional=True
        )
        self.pods: Informer[ForeignPod] = Informer(
            api, "/api/v1/pods", _read_foreign_pod, self._on_gpu_change, optional=True
        )
        self.informers: list[Informer[Any]] = [self.missions, self.deployments, self.nodes]
        if settings.foreign_pods:
            self.informers.append(self.pods)

    async def synced(self) -> None:
        """Return when every informer has listed its objects once."""
        for informer in self.informers:
            await informer.synced.wait()

    def list_missions(self) -> list[Mission]:
        """Return all missions, sorted by ``namespace/name``."""
        return sorted(self.missions, key=lambda mission: mission.key)

    def get_mission(self, key: str) -> Mission | None:
        """Return the mission ``namespace/name``; None if it does not exist."""
        return self.missions.get(key)

    def gpu_nodes(self) -> list[GpuNode]:
        """Return the schedulable nodes that have GPUs, sorted by name."""
        if self._gpu_nodes is None:
            foreign: dict[str, int] = {}
            for node_name, units in self.pods:
                foreign[node_name] = foreign.get(node_name, 0) + units
            self._gpu_nodes = [
                replace(node, foreign_units=foreign.get(node.name, node.foreign_units))
                for node in sorted(self.nodes, key=lambda node: node.name)
            ]
        return self._gpu_nodes

    def deployment(self, mission: Mission, name: str) -> Object | None:
        """Return a Deployment of the mission's namespace; None if it does not exist."""
        return self.deployments.get(f"{mission.namespace}/{name}")

    async def merge_patch(self, path: str, body: Object) -> Object:
        """Apply a JSON merge patch to a Mission; errors as of ``KubeApi``."""
        return await self._api.patch(path, body, "merge")

    def _on_gpu_change(self) -> None:
        self._gpu_nodes = None
        self._on_change()

    def _on_change(self) -> None:
        self.changed.set()
        self._notify_listeners()

    def _notify_listeners(self) -> None:
        for listener in self.listeners:
            listener.set()


def _drop_unused_metadata(deployment: Object) -> Object:
    for name in _UNUSED_METADATA:
        deployment["metadata"].pop(name, None)
    return deployment


def _read_foreign_pod(pod: Object) -> ForeignPod | None:
    """Return node and GPU units of a running pod outside the fleet; None for all other pods."""
    node = pod.get("spec", {}).get("nodeName")
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not node or ended or MISSION_LABEL in (pod["metadata"].get("labels") or {}):
        return None
    units = requested_gpu_units(pod)
    return (node, units) if units else None
