"""The integration graph: which missions talk to which, and whether both ends can answer."""

from collections.abc import Iterable
from dataclasses import dataclass

from bem_fleet.services.orchestrator.mission import Mission

_ANSWERING = ("Running", "Degraded")


@dataclass(frozen=True)
class Edge:
    """One link of the graph.

    Attributes:
        source: Who calls, ``namespace/name``.
        target: Who is called.
        interface: What they speak.
        problem: Why the link does not work; empty if it does.
    """

    source: str
    target: str
    interface: str
    problem: str


class CrossMissionIntegrator:
    """Builds the graph from the missions that are active: not deleted, and wanting pods.

    Args:
        missions: All that are known.
    """

    def __init__(self, missions: Iterable[Mission]) -> None:
        self._active = {
            one.key: one
            for one in sorted(missions, key=lambda one: one.key)
            if not one.deleted and one.replicas > 0
        }

    @property
    def missions(self) -> list[str]:
        """Active missions by ``namespace/name``."""
        return list(self._active)

    def edges(self) -> list[Edge]:
        """Return the links that active missions name, with the first problem of each."""
        return [
            Edge(mission.key, f"{mission.namespace}/{to}", interface, self._problem(mission, to))
            for mission in self._active.values()
            for to, interface in mission.integrates
        ]

    def _problem(self, mission: Mission, to: str) -> str:
        target = self._active.get(f"{mission.namespace}/{to}")
        if target is None:
            return f"{to} is not active"
        for end in (mission, target):
            ready = int(end.status.get("readyReplicas", 0))
            if end.status.get("phase") not in _ANSWERING and not ready:
                return f"{end.name} is {end.status.get('phase', 'Pending')}, no pod is ready"
        return ""
