"""Settings of the orchestrator."""

import socket
from pathlib import Path

from fleet.settings import FleetSettings
from pydantic import Field


class OrchestratorSettings(FleetSettings, env_prefix="BEM_ORCHESTRATOR_"):
    """Read from ``BEM_ORCHESTRATOR_*``."""

    address: str = "127.0.0.1:50101"
    """Where gRPC listens."""

    namespace: str = Field("default", min_length=1, max_length=63)
    """Where the missions, their Deployments and the lease are."""

    missions: Path | None = None
    """Folder of the missions on one machine; unset: they are resources of a cluster."""

    mission_schema: Path = Path("charts/crds/missions.yaml")
    """The resource's definition, whose schema holds for missions in files too."""

    identity: str = Field(default_factory=socket.gethostname, min_length=1)
    """Name of this replica, unique among them; the pod's name in a cluster."""

    deployment: str = Field("", max_length=253)
    """Its own Deployment, which the lease goes with; empty: the lease stays."""

    lease_s: int = Field(15, ge=4, le=600)
    """Seconds after which another replica takes over from one that is silent."""

    tick_s: float = Field(1.0, ge=0.05, le=60)
    """How often time is looked at while a canary runs; without one, only changes wake it."""

    settle_s: float = Field(0.05, ge=0, le=10)
    """How long changes are collected before they are acted on together."""

    writers: int = Field(16, ge=1, le=256)
    """Writes to the API server at once."""

    drain_canary_s: float = Field(10.0, ge=0)
    """Time between the last request to a canary and its removal."""

    priority_class_prefix: str = ""
    """PriorityClasses are this and the class, such as ``bem-high``; empty: none is set."""

    foreign_pods: bool = True
    """Whether GPUs of pods outside the fleet are counted; needs to read pods of the cluster."""

    validation_address: str = "127.0.0.1:50091"
    """The validation service, which judges canaries."""

    look_s: float = Field(2.0, ge=0.1, le=600)
    """How often a canary is judged."""

    mission_address: str = "{service}.{namespace}.svc:{port}"
    """Where missions are reached: a form of service, namespace and port."""
