"""A Mission resource as the orchestrator reads it; the CRD's schema has checked it before."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bem_fleet.services.orchestrator.assignment.claims import Claim, Holding, Priority
from bem_fleet.services.orchestrator.canary.spec import CanarySpec, read_canary

GROUP, VERSION, PLURAL = "fleet.bem.dev", "v1alpha1", "missions"
FINALIZER = f"{GROUP}/orchestrator"
MISSION_LABEL, TRACK_LABEL = f"{GROUP}/mission", f"{GROUP}/track"
COMMAND = f"{GROUP}/canary"
"""Annotation by which people steer a canary: pause, resume, promote or abort."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Mission:
    """What one Mission asks for, and where it stands.

    Attributes:
        raw: The object.
        key: ``namespace/name``.
        workload: Its Deployment's name.
        container: The container that gets GPUs.
        port: Where clients reach it.
        model: Model name that an adapter canary splits; empty if none.
        grpc_service: Name for its health; empty is the server's own.
        replicas: Pods that are wanted.
        priority: Class.
        cpu_fallback: Whether it runs without GPUs in a cluster without any.
        claims: GPU claims; the first is the workload's.
        integrates: Pairs of mission and interface.
        canary: What to try, if anything.
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
    claims: tuple[Claim, ...]
    integrates: tuple[tuple[str, str], ...]
    canary: CanarySpec | None
    held: Mapping[str, Holding] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name within the namespace."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def status(self) -> Object:
        """What was last written about it."""
        found: Object = self.raw.get("status") or {}
        return found

    @property
    def deleted(self) -> bool:
        """Whether it is on its way out."""
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def command(self) -> str:
        """What a person asks of the canary; empty if nothing."""
        annotations = self.raw["metadata"].get("annotations") or {}
        return str(annotations.get(COMMAND, "")).strip().lower()

    @property
    def canary_claim(self) -> Claim | None:
        """GPUs of the second Deployment of a pod canary, as many a pod as stable's."""
        if not self.claims or self.canary is None or not self.canary.image:
            return None
        first = self.claims[0]
        key, pods = f"{first.key}-canary", self.canary.replicas
        return replace(first, key=key, pods=pods, device="")

    @property
    def path(self) -> str:
        """Its path at the API server."""
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}/{self.name}"


def read_mission(raw: Object) -> Mission:
    """Read a Mission object."""
    metadata, spec = raw["metadata"], raw["spec"]
    name, key = metadata["name"], f"{metadata['namespace']}/{metadata['name']}"
    priority = Priority[str(spec.get("priority", "medium")).upper()]
    replicas = int(spec.get("replicas", 1))
    created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    gpus = spec.get("gpus") or [] if replicas else []
    claims = tuple(
        Claim(
            key=f"{key}/{one['name']}",
            mission=name,
            priority=priority,
            pods=1 if index else replicas,
            gpus=int(one.get("count", 1)),
            memory_gib=float(one.get("memoryGiB", 0)),
            products=tuple(one.get("products") or ()),
            shares_with=frozenset(one.get("shareWith") or ()),
            device=one.get("device", ""),
            created=created,
        )
        for index, one in enumerate(gpus)
    )
    assignment = (raw.get("status") or {}).get("assignment") or ()
    return Mission(
        raw=raw,
        key=key,
        workload=spec.get("workload") or name,
        container=spec.get("container", "mission"),
        port=int(spec.get("port", 50051)),
        model=spec.get("model", ""),
        grpc_service=spec.get("grpcService", ""),
        replicas=replicas,
        priority=priority,
        cpu_fallback=bool(spec.get("cpuFallback", True)),
        claims=claims,
        integrates=tuple((e["mission"], e["interface"]) for e in spec.get("integrates") or ()),
        canary=read_canary(spec.get("canary")),
        held={f"{key}/{one['claim']}": one["pods"] for one in assignment},
    )
