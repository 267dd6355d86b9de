"""Fleet store: the interface to missions, whether a cluster or files on one machine keep them."""

import asyncio
from typing import Any, Protocol

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.mission import Mission


class FleetView(Protocol):
    """Read access to the missions and GPUs of a fleet.

    Attributes:
        listeners: Events that are set at every change of a mission.
    """

    listeners: set[asyncio.Event]

    def list_missions(self) -> list[Mission]:
        """Return all missions, sorted by ``namespace/name``."""
        ...

    def get_mission(self, key: str) -> Mission | None:
        """Return the mission ``namespace/name``; None if it does not exist."""
        ...

    def gpu_nodes(self) -> list[GpuNode]:
        """Return the schedulable nodes that have GPUs, sorted by name."""
        ...


class FleetStore(FleetView, Protocol):
    """Read and write access to the missions of a fleet."""

    async def merge_patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Apply a JSON merge patch (RFC 7396) to a Mission or its status.

        Args:
            path: Path of the Mission at the API server, with ``/status`` for its status.
            body: The patch.

        Returns:
            The object after the patch.

        Raises:
            KubeError: The patch is not applied; the subclass tells why.
        """
        ...
