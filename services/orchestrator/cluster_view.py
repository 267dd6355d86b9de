"""Cluster view: informers for missions, Deployments, GPU nodes and pods, with one change event."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
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
    TRACK_LABEL,
    VERSION,
    Mission,
    read_mission,
)
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from bem_fleet.services.orchestrator.unreadable import (
    UNREADABLE,
    UnreadableMission,
    unreadable_mission,
)
from bem_fleet.services.orchestrator.workloads import is_placed

# Fields of a Deployment that are never read and make up most of its size in memory.
_UNUSED_METADATA = ("managedFields",)


@dataclass(frozen=True)
class PodUse:
    """What a running pod has to do with the GPUs of its node.

    Attributes:
        node: Name of the node.
        foreign_units: GPU units, if the pod is outside the fleet; else 0.
        workload: Namespace, mission and track of a pod of the fleet; empty outside.
    """

    node: str
    foreign_units: int
    workload: tuple[str, str, str] | tuple[()] = ()


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
        self.missions: Informer[Mission | UnreadableMission] = Informer(
            api,
            f"/apis/{GROUP}/{VERSION}/{namespace}/{PLURAL}",
            _read_mission,
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
            api,
            "/api/v1/nodes",
            partial(read_node, tolerations=settings.tolerations),
            self._on_gpu_change,
            optional=True,
        )
        self.pods: Informer[PodUse] = Informer(
            api, "/api/v1/pods", _read_pod, self._on_gpu_change, optional=True
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
        readable = (one for one in self.missions if isinstance(one, Mission))
        return sorted(readable, key=lambda mission: mission.key)

    def unreadable_missions(self) -> list[UnreadableMission]:
        """Return the missions that cannot be read."""
        return [one for one in self.missions if isinstance(one, UnreadableMission)]

    def get_mission(self, key: str) -> Mission | None:
        """Return the mission ``namespace/name``; None if it does not exist."""
        found = self.missions.get(key)
        return found if isinstance(found, Mission) else None

    def mark_unreadable(self, raw: Object, error: Exception) -> None:
        """Leave a mission alone until it changes, because its content raised an error."""
        found = unreadable_mission(raw, error)
        self.missions.put(found.key, found)

    def abandoned_deployments(self) -> list[Object]:
        """Return the Deployments that have a mission's placement and no Mission any more."""
        known = {(one.raw["metadata"]["namespace"], one.workload) for one in self.missions}
        return [
            one
            for one in self.deployments
            if is_placed(one)
            and (one["metadata"]["namespace"], one["metadata"]["name"]) not in known
            and "deletionTimestamp" not in one["metadata"]
        ]

    def gpu_nodes(self) -> list[GpuNode]:
        """Return the nodes that have GPUs and whose pods run, sorted by name."""
        if self._gpu_nodes is None:
            foreign: dict[str, int] = {}
            for pod in self.pods:
                foreign[pod.node] = foreign.get(pod.node, 0) + pod.foreign_units
            self._gpu_nodes = [
                replace(node, foreign_units=foreign.get(node.name, node.foreign_units))
                for node in sorted(self.nodes, key=lambda node: node.name)
            ]
        return self._gpu_nodes

    def running_pods(self, mission: Mission, track: str) -> dict[str, int] | None:
        """Return the pods of a mission's track by node; None where pods are not watched."""
        if self.pods not in self.informers:
            return None
        wanted = (mission.namespace, mission.name, track)
        return dict(Counter(pod.node for pod in self.pods if pod.workload == wanted))

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


def _read_mission(raw: Object) -> Mission | UnreadableMission:
    try:
        return read_mission(raw)
    except UNREADABLE as err:
        # It must not end the informer, which would stop all others.
        return unreadable_mission(raw, err)


def _drop_unused_metadata(deployment: Object) -> Object:
    for name in _UNUSED_METADATA:
        deployment["metadata"].pop(name, None)
    return deployment


def _read_pod(pod: Object) -> PodUse | None:
    """Return a running pod of the fleet, or one outside it that has GPUs; None for all others."""
    node = pod.get("spec", {}).get("nodeName")
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not node or ended:
        return None
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    if MISSION_LABEL not in labels:
        units = requested_gpu_units(pod)
        return PodUse(node, units) if units else None
    if "deletionTimestamp" in metadata:
        return None
    workload = (metadata["namespace"], labels[MISSION_LABEL], labels.get(TRACK_LABEL, ""))
    return PodUse(node, 0, workload)
