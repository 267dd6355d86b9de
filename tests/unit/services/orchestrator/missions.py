"""Missions for tests."""

from typing import Any

from bem_fleet.services.orchestrator.mission import Mission, read_mission


def mission(name: str = "router", status: dict[str, Any] | None = None, **spec: Any) -> Mission:
    """Return a mission as the API server has it."""
    metadata = {
        "name": name,
        "namespace": "bem",
        "uid": "u",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return read_mission({"metadata": metadata, "spec": spec, "status": status or {}})
