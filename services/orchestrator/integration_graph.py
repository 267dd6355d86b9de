"""Integration graph: which missions call which, and whether both ends answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bem_fleet.services.orchestrator.mission import Mission

_ANSWERING_PHASES = ("Running", "Degraded")


@dataclass(frozen=True)
class IntegrationEdge:
    """One edge of the graph.

    Attributes:
        source: Calling mission, ``namespace/name``.
        target: Called mission, ``namespace/name``.
        interface: Name of the interface between them.
        problem: Reason why the edge does not work; empty if it works.
    """

    source: str
    target: str
    interface: str
    problem: str


class CrossMissionIntegrator:
    """Builds the graph from the active missions: not deleted, with at least one pod wanted.

    The graph has the missions and interfaces that Mission resources name; it knows none itself.

    Args:
        missions: All known missions.
        unanswered: Why a mission did not answer its last probe, by ``namespace/name``.
    """

    def __init__(
        self, missions: Iterable[Mission], unanswered: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._unanswered = unanswered
        self._active = {
            mission.key: mission
            for mission in sorted(missions, key=lambda mission: mission.key)
            if not mission.deleted and mission.replicas > 0
        }

    @property
    def missions(self) -> list[str]:
        """Active missions, ``namespace/name``."""
        return list(self._active)

    def ends(self) -> list[Mission]:
        """Return the active missions at the ends of edges, each once, sorted by key."""
        keys = {key for edge in self.edges() for key in (edge.source, edge.target)}
        return [mission for key, mission in self._active.items() if key in keys]

    def edges(self) -> list[IntegrationEdge]:
        """Return the edges that active missions declare, each with its first problem."""
        return [
            IntegrationEdge(
                source=mission.key,
                target=f"{mission.namespace}/{target}",
                interface=interface,
                problem=self._problem(mission, target),
            )
            for mission in self._active.values()
            for target, interface in mission.integrates
        ]

    def _problem(self, source: Mission, target_name: str) -> str:
        target = self._active.get(f"{source.namespace}/{target_name}")
        if target is None:
            return f"{target_name} is not active"
        for end in (source, target):
            if end.phase not in _ANSWERING_PHASES and not end.ready_replicas:
                return f"{end.name} is {end.phase}, no pod is ready"
            if reason := self._unanswered.get(end.key):
                return f"{end.name} does not answer: {reason}"
        return ""
