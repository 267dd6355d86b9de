"""The cluster as the orchestrator sees it: four caches, one wake-up."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode, gpu_units, read_node
from bem_fleet.services.orchestrator.kube.api import Api, Object
from bem_fleet.services.orchestrator.kube.cache import Cache
from bem_fleet.services.orchestrator.mission import (
    GROUP,
    MISSION_LABEL,
    PLURAL,
    VERSION,
    Mission,
    read_mission,
)
from bem_fleet.services.orchestrator.settings import OrchestratorSettings

# What of a Deployment is never looked at; it is most of its size.
_UNUSED = ("managedFields",)
ForeignPod = tuple[str, int]


class Missions(Protocol):
    """Missions by ``namespace/name``."""

    def __iter__(self) -> Iterator[Mission]:
        """Iterate over all."""
        ...

    def get(self, key: str) -> Mission | None:
        """Return one, None if there is none of this name."""
        ...


class Seen(Protocol):
    """What is known of a fleet, wherever its missions are kept.

    Attributes:
        listeners: Set at every change.
    """

    listeners: set[asyncio.Event]

    @property
    def missions(self) -> Missions:
        """The missions."""
        ...

    def gpu_nodes(self) -> list[GpuNode]:
        """Return the nodes that have GPUs."""
        ...


class View:
    """Caches of missions, their Deployments, nodes with GPUs, and pods that use some.

    Args:
        api: The API server.
        settings: Namespace, and whether pods of others are watched.
    """

    def __init__(self, api: Api, settings: OrchestratorSettings) -> None:
        self.changed = asyncio.Event()
        self._sorted: list[GpuNode] | None = None
        self.listeners: set[asyncio.Event] = set()
        within = f"namespaces/{settings.namespace}"
        self.missions: Cache[Mission] = Cache(
            api,
            f"/apis/{GROUP}/{VERSION}/{within}/{PLURAL}",
            read_mission,
            self._woken,
            wrote=self._tell,
        )
        self.deployments: Cache[Object] = Cache(
            api, f"/apis/apps/v1/{within}/deployments", _slim, self._woken, selector=MISSION_LABEL
        )
        self.nodes: Cache[GpuNode] = Cache(
            api, "/api/v1/nodes", read_node, self._gpus_changed, optional=True
        )
        self.pods: Cache[ForeignPod] = Cache(
            api, "/api/v1/pods", _foreign, self._gpus_changed, optional=True
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
        if self._sorted is None:
            foreign: dict[str, int] = {}
            for node, units in self.pods:
                foreign[node] = foreign.get(node, 0) + units
            nodes = sorted(self.nodes, key=lambda node: node.name)
            self._sorted = [
                replace(node, foreign=foreign[node.name]) if node.name in foreign else node
                for node in nodes
            ]
        return self._sorted

    def deployment(self, mission: Mission, name: str) -> Object | None:
        """Return a Deployment of the mission's namespace."""
        return self.deployments.get(f"{mission.namespace}/{name}")

    def _gpus_changed(self) -> None:
        self._sorted = None
        self._woken()

    def _woken(self) -> None:
        self.changed.set()
        self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener.set()


def _slim(deployment: Object) -> Object:
    for name in _UNUSED:
        deployment["metadata"].pop(name, None)
    return deployment


def _foreign(pod: Object) -> ForeignPod | None:
    """Keep a pod that uses GPUs and is not the fleet's: its node and units."""
    node = pod.get("spec", {}).get("nodeName")
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not node or ended or MISSION_LABEL in (pod["metadata"].get("labels") or {}):
        return None
    units = gpu_units(pod)
    return (node, units) if units else None
