"""Mission resource: specification and status of one mission, parsed once.

The CRD's schema has validated the object and filled its defaults in before it is read here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bem_fleet.services.orchestrator.assignment.gpu_requests import (
    GpuRequest,
    PodsByNode,
    Priority,
)
from bem_fleet.services.orchestrator.canary.spec import CanarySpec, read_canary
from bem_fleet.services.orchestrator.canary.status import CanaryStatus, read_canary_status

GROUP, VERSION, PLURAL = "fleet.bem.dev", "v1alpha1", "missions"
RETIRED_FINALIZER = f"{GROUP}/orchestrator"
"""Finalizer of earlier versions: it is removed wherever it is seen, and never set."""
REPLICAS = f"{GROUP}/mission-replicas"
"""Annotation of a Deployment that the orchestrator placed: the pods that its Mission wants."""
MISSION_LABEL, TRACK_LABEL = f"{GROUP}/mission", f"{GROUP}/track"
COMMAND = f"{GROUP}/canary"
"""Annotation by which people steer a canary: pause, resume, promote or abort."""
VALUES_REPLICAS, APPLIED_REPLICAS = f"{GROUP}/values-replicas", f"{GROUP}/applied-replicas"
"""Annotations of a Mission: the pods that the chart's values want, and that number when it was last
applied. The number applies when the values change; in between `kubectl scale` or an autoscaler
decides."""
PROMOTED = f"{GROUP}/promoted"
"""Annotation of a Deployment: image and variables of the last promotion, as JSON. The chart keeps
them until its own image changes."""
MISSION_ANNOTATIONS = frozenset({COMMAND, VALUES_REPLICAS, APPLIED_REPLICAS})
"""Annotations of this group that mean something on a Mission."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Mission:
    """A Mission resource.

    Attributes:
        raw: The object as the API server returned it.
        key: Namespace and name, ``namespace/name``.
        workload: Name of the mission's Deployment.
        container: Name of the container that uses the GPUs and runs a canary's image.
        port: Port that clients connect to: the safety sidecar's.
        model: Model name in requests that an adapter canary splits; empty if none.
        grpc_service: gRPC service whose health is the mission's; empty for the whole server.
        replicas: Desired number of pods.
        priority: Priority class for GPU assignment.
        cpu_fallback: Whether the mission runs without GPUs in a cluster that has none.
        gpu_requests: GPU requests; the first one is the workload's own.
        integrates: Pairs of target mission and interface.
        canary: Canary specification; None if there is none.
        canary_status: The ``canary`` part of the status.
        placed: Pods by node for each key of a GPU request, as the status has them.
    """

    raw: Object
    key: str
    workload: str
    container: str
    port: int
    model: str
    grpc_service: str
    replicas: int
    priority: Priority
    cpu_fallback: bool
    gpu_requests: tuple[GpuRequest, ...]
    integrates: tuple[tuple[str, str], ...]
    canary: CanarySpec | None
    canary_status: CanaryStatus = field(default_factory=CanaryStatus)
    placed: Mapping[str, PodsByNode] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the mission within its namespace."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the mission."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def status(self) -> Object:
        """Status of the object; empty before the first write."""
        status: Object = self.raw.get("status") or {}
        return status

    @property
    def phase(self) -> str:
        """Phase of the status; Pending before the first write."""
        return str(self.status.get("phase", "Pending"))

    @property
    def ready_replicas(self) -> int:
        """Number of ready pods in the status."""
        return int(self.status.get("readyReplicas", 0))

    @property
    def deleted(self) -> bool:
        """Whether the object is being deleted."""
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def command(self) -> str:
        """Canary command of the annotation; empty if there is none."""
        annotations = self.raw["metadata"].get("annotations") or {}
        return str(annotations.get(COMMAND, "")).strip().lower()

    @property
    def newer_replicas(self) -> int | None:
        """Number of pods of values that have changed since they were applied; None if none have.

        A Mission that an earlier chart made has no record: its number stays if somebody chose it.
        """
        annotations = self.raw["metadata"].get("annotations") or {}
        wanted, applied = annotations.get(VALUES_REPLICAS), annotations.get(APPLIED_REPLICAS)
        if wanted is None or wanted == applied:
            return None
        return self.replicas if applied is None and self.replicas != 1 else int(wanted)

    @property
    def canary_gpu_request(self) -> GpuRequest | None:
        """GPU request of a pod canary's Deployment, with as many GPUs a pod as stable's."""
        if not self.gpu_requests or self.canary is None or not self.canary.image:
            return None
        first = self.gpu_requests[0]
        key, pods = f"{first.key}-canary", self.canary.replicas
        # A device by name is stable's: the canary may take any of an acceptable product.
        return replace(first, key=key, pods=pods, device="")

    @property
    def path(self) -> str:
        """Path of the object at the API server."""
        return mission_path(self.raw)


def mission_path(raw: Object) -> str:
    """Return the path of a Mission object at the API server."""
    metadata = raw["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}"


def read_mission(raw: Object) -> Mission:
    """Read a Mission object.

    Raises:
        KeyError: A field that the CRD requires or has a default for is absent.
        ValueError: A field has a value that no version of this service writes.
    """
    metadata, spec = raw["metadata"], raw["spec"]
    key = f"{metadata['namespace']}/{metadata['name']}"
    status = raw.get("status") or {}
    return Mission(
        raw=raw,
        key=key,
        workload=spec.get("workload") or metadata["name"],
        container=spec["container"],
        port=int(spec["port"]),
        model=spec.get("model", ""),
        grpc_service=spec.get("grpcService", ""),
        replicas=int(spec["replicas"]),
        priority=Priority[spec["priority"].upper()],
        cpu_fallback=bool(spec["cpuFallback"]),
        gpu_requests=_gpu_requests(key, raw),
        integrates=tuple((e["mission"], e["interface"]) for e in spec.get("integrates") or ()),
        canary=read_canary(spec.get("canary")),
        canary_status=read_canary_status(status),
        placed={f"{key}/{one['request']}": one["pods"] for one in status.get("assignment") or ()},
    )


def _gpu_requests(key: str, raw: Object) -> tuple[GpuRequest, ...]:
    metadata, spec = raw["metadata"], raw["spec"]
    replicas = int(spec["replicas"])
    if not replicas:
        return ()  # a stopped mission keeps no GPUs
    created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    return tuple(
        GpuRequest(
            key=f"{key}/{gpus['name']}",
            mission=metadata["name"],
            priority=Priority[spec["priority"].upper()],
            # Only the first request is the workload's; the others reserve GPUs once.
            pods=1 if index else replicas,
            gpus=int(gpus["count"]),
            memory_gib=float(gpus.get("memoryGiB", 0)),
            products=tuple(gpus.get("products") or ()),
            shares_with=frozenset(gpus.get("shareWith") or ()),
            device=gpus.get("device", ""),
            created=created,
        )
        for index, gpus in enumerate(spec.get("gpus") or ())
    )
