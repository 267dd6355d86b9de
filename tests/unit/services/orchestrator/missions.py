"""Missions for tests, completed by the CRD's schema as an API server completes them."""

from pathlib import Path
from typing import Any

from bem_fleet.services.orchestrator.canary.spec import CanarySpec, read_canary
from bem_fleet.services.orchestrator.local.mission_schema import MissionSchema
from bem_fleet.services.orchestrator.mission import Mission, read_mission

CRD = Path(__file__).resolve().parents[4] / "charts/crds/missions.yaml"
SCHEMA = MissionSchema(CRD)


def raw_mission(
    name: str = "router", status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a Mission object as the API server returns it."""
    metadata = {
        "name": name,
        "namespace": "bem",
        "uid": "u",
        "generation": 1,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"metadata": metadata, "spec": SCHEMA.fill_defaults(spec), "status": status or {}}


def mission(name: str = "router", status: dict[str, Any] | None = None, **spec: Any) -> Mission:
    """Return a mission as the orchestrator reads it."""
    return read_mission(raw_mission(name, status, **spec))


def canary_spec(**canary: Any) -> CanarySpec:
    """Return a canary specification with the CRD's defaults."""
    spec = read_canary(SCHEMA.fill_defaults({"canary": canary})["canary"])
    assert spec is not None
    return spec


def deployment(
    name: str = "router", image: str = "stable:1", ready: int = 1, **spec: Any
) -> dict[str, Any]:
    """Return the Deployment of a mission as the chart renders it, rolled out completely."""
    labels = {"app": name, "fleet.bem.dev/mission": name, "fleet.bem.dev/track": "stable"}
    container = {"name": "mission", "image": image, "env": [{"name": "A", "value": "1"}]}
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), ready)
    return {
        "metadata": {"name": name, "namespace": "bem", "generation": 1},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "sidecar", "image": "s"}, container]},
            },
            **spec,
        },
        "status": {"observedGeneration": 1, **counts},
    }
