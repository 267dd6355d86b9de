"""The cluster as the orchestrator sees it: four caches, one wake-up."""

import asyncio
from typing import Any

from services.orchestrator.assignment.inventory import RESOURCE, GpuNode, gpu_units, read_node
from services.orchestrator.kube.api import Api, Object
from services.orchestrator.kube.cache import Cache
from services.orchestrator.mission import (
    GROUP,
    MISSION_LABEL,
    PLURAL,
    VERSION,
    Mission,
    read_mission,
)
from services.orchestrator.settings import OrchestratorSettings

# What of a Deployment is never looked at; it is most of its size.
_UNUSED = ("managedFields",)
ForeignPod = tuple[str, int]


class View:
    """Caches of missions, their Deployments, nodes with GPUs, and pods that use some.

    Args:
        api: The API server.
        settings: Namespace, and whether pods of others are watched.
    """

    def __init__(self, api: Api, settings: OrchestratorSettings) -> None:
        self.changed = asyncio.Event()
        self.listeners: set[asyncio.Event] = set()
        within = f"namespaces/{settings.namespace}"
        self.missions: Cache[Mission] = Cache(
            api, f"/apis/{GROUP}/{VERSION}/{within}/{PLURAL}", read_mission, self._woken
        )
        self.deployments: Cache[Object] = Cache(
            api, f"/apis/apps/v1/{within}/deployments", _slim, self._woken, selector=MISSION_LABEL
        )
        self.nodes: Cache[Object] = Cache(
            api, "/api/v1/nodes", _gpu_node, self._woken, optional=True
        )
        self.pods: Cache[ForeignPod] = Cache(
            api, "/api/v1/pods", _foreign, self._woken, optional=True
        )
        self._watched: list[Cache[Any]] = [self.missions, self.deployments, self.nodes]
        if settings.foreign_pods:
            self._watched.append(self.pods)

    @property
    def caches(self) -> list[Cache[Any]]:
        """Return the caches that are to be run."""
        return self._watched

    async def synced(self) -> None:
        """Return when every cache has been filled once."""
        for cache in self._watched:
            await cache.synced.wait()

    def gpu_nodes(self) -> list[GpuNode]:
        """Return the nodes that have GPUs and take pods, by name."""
        foreign: dict[str, int] = {}
        for node, units in self.pods:
            foreign[node] = foreign.get(node, 0) + units
        read = (read_node(node, foreign.get(node["metadata"]["name"], 0)) for node in self.nodes)
        return sorted((node for node in read if node), key=lambda node: node.name)

    def deployment(self, mission: Mission, name: str) -> Object | None:
        """Return a Deployment of the mission's namespace."""
        return self.deployments.get(f"{mission.namespace}/{name}")

    def _woken(self) -> None:
        self.changed.set()
        for listener in self.listeners:
            listener.set()


def _slim(deployment: Object) -> Object:
    for name in _UNUSED:
        deployment["metadata"].pop(name, None)
    return deployment


def _gpu_node(node: Object) -> Object | None:
    """Keep of a node what tells of its GPUs; None if it has none."""
    status = node.get("status", {})
    if RESOURCE not in (status.get("allocatable") or {}):
        return None
    metadata, spec = node["metadata"], node.get("spec", {})
    ready = [c for c in status.get("conditions") or () if c.get("type") == "Ready"]
    return {
        "metadata": {"name": metadata["name"], "labels": metadata.get("labels") or {}},
        "spec": {key: spec[key] for key in ("unschedulable", "taints") if key in spec},
        "status": {
            "allocatable": {RESOURCE: status["allocatable"][RESOURCE]},
            "conditions": [{"type": "Ready", "status": c.get("status")} for c in ready],
        },
    }


def _foreign(pod: Object) -> ForeignPod | None:
    """Keep a pod that uses GPUs and is not the fleet's: its node and units."""
    node = pod.get("spec", {}).get("nodeName")
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not node or ended or MISSION_LABEL in (pod["metadata"].get("labels") or {}):
        return None
    units = gpu_units(pod)
    return (node, units) if units else None
