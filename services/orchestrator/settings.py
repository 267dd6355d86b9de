"""Settings of the orchestrator."""

import socket
from pathlib import Path

from fleet.settings import FleetSettings
from pydantic import Field


class OrchestratorSettings(FleetSettings, env_prefix="BEM_ORCHESTRATOR_"):
    """Settings read from ``BEM_ORCHESTRATOR_*``."""

    address: str = "127.0.0.1:50101"
    """Address on which gRPC listens."""

    namespace: str = Field("default", min_length=1, max_length=63)
    """Namespace of the missions, their Deployments and the Lease."""

    missions_dir: Path | None = None
    """Folder of mission files on one machine; unset: missions are resources of a cluster."""

    mission_crd: Path = Path("charts/crds/missions.yaml")
    """CustomResourceDefinition whose schema applies to mission files too."""

    identity: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of this replica, unique among the replicas; the pod's name in a cluster."""

    deployment: str = Field("", max_length=253)
    """Name of the orchestrator's own Deployment, which owns the Lease; empty: nothing owns it."""

    lease_duration_s: int = Field(15, ge=4, le=600)
    """Seconds without renewal after which another replica takes over."""

    canary_resync_s: float = Field(1.0, ge=0.05, le=60)
    """Interval of reconciling while a canary runs, in seconds; otherwise changes trigger it."""

    debounce_s: float = Field(0.05, ge=0, le=10)
    """Seconds during which changes are collected before they are reconciled together."""

    max_concurrent_writes: int = Field(16, ge=1, le=256)
    """Maximum number of concurrent writes to the API server."""

    canary_drain_s: float = Field(10.0, ge=0)
    """Seconds between the last request to a canary and the removal of its Deployment."""

    priority_class_prefix: str = ""
    """Prefix of PriorityClass names, such as ``bem-`` for ``bem-high``; empty: none is set."""

    foreign_pods: bool = True
    """Whether GPUs of pods outside the fleet are counted; needs permission to list all pods."""

    validation_address: str = "127.0.0.1:50091"
    """Address of the validation service, which analyzes canaries."""

    analysis_interval_s: float = Field(2.0, ge=0.1, le=600)
    """Interval of the canary analysis, in seconds."""

    adapters_interval_s: float = Field(30.0, ge=0.1, le=3600)
    """Interval of asking the missions for adapters that they refuse, in seconds."""

    probe_interval_s: float = Field(15.0, ge=0.1, le=3600)
    """Interval of probing the missions at the ends of the integration graph's edges, in seconds."""

    tolerations: tuple[dict[str, str | int], ...] = ()
    """Tolerations of every mission's pods, as a JSON list: nodes with such taints take new pods."""

    restart_secrets: tuple[str, ...] = ()
    """Secrets whose change restarts the pods that read them, as a JSON list; empty: none does."""

    restart_stateful_sets: tuple[str, ...] = ()
    """StatefulSets that may be restarted too, as a JSON list, each before what depends on it."""

    secret_interval_s: float = Field(30.0, ge=0.1, le=3600)
    """Interval of comparing workloads with the Secrets, in seconds; changes trigger it too."""

    secret_settle_s: float = Field(10.0, ge=0, le=600)
    """Seconds without a further change of a Secret after which pods are restarted."""

    mission_address: str = "{service}.{namespace}.svc:{port}"
    """Template of a mission's address with the fields service, namespace and port."""
