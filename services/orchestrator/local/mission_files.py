"""Mission files: the fleet store of one machine, one JSON file per mission."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.kube.api import InvalidError, Object, ObjectNotFoundError
from bem_fleet.services.orchestrator.local.merge_patch import apply_merge_patch
from bem_fleet.services.orchestrator.local.mission_schema import MissionSchema
from bem_fleet.services.orchestrator.mission import GROUP, VERSION, Mission, read_mission
from fleet.files import write_json_atomic


class MissionFiles:
    """Fleet store in a folder; a change is on disk before any reader sees it.

    Args:
        folder: Folder of the files; each has at least ``metadata.name`` and ``spec``.
        schema: Schema of the specifications.
        namespace: Namespace that the missions are given.

    Raises:
        InvalidError: A file is not a mission, or the schema rejects it; the message names the file.
    """

    def __init__(self, folder: Path, schema: MissionSchema, namespace: str) -> None:
        self.changed = asyncio.Event()
        self.listeners: set[asyncio.Event] = set()
        self._folder, self._namespace, self._schema = folder, namespace, schema
        self._missions: dict[str, Mission] = {}
        for file in sorted(folder.glob("*.json")):
            try:
                self._store(self._complete(_with_metadata(json.loads(file.read_text()), namespace)))
            except (ValueError, KeyError, TypeError) as err:
                raise InvalidError(422, f"{file}: not a mission: {err}") from err

    def list_missions(self) -> list[Mission]:
        """Return all missions, sorted by ``namespace/name``."""
        return [self._missions[key] for key in sorted(self._missions)]

    def get_mission(self, key: str) -> Mission | None:
        """Return the mission ``namespace/name``; None if it does not exist."""
        return self._missions.get(key)

    def gpu_nodes(self) -> list[GpuNode]:
        """Return no nodes: without a cluster no GPUs are assigned."""
        return []

    async def merge_patch(self, path: str, body: Object) -> Object:
        """Apply a JSON merge patch to a mission or its status.

        Args:
            path: Path of the Mission as at an API server, with ``/status`` for its status.
            body: The patch.

        Returns:
            The mission after the patch, with defaults filled in.

        Raises:
            ObjectNotFoundError: The mission does not exist.
            InvalidError: The schema rejects the result, or the result needs a cluster.
        """
        name = path.removesuffix("/status").rpartition("/")[2]
        old = self.get_mission(f"{self._namespace}/{name}")
        if old is None:
            raise ObjectNotFoundError(404, f"there is no mission {name}")
        patched = self._complete(apply_merge_patch(old.raw, body))
        if patched != old.raw:
            write_json_atomic(self._folder / f"{name}.json", patched)
            self._store(patched)
            self.changed.set()
            for listener in self.listeners:
                listener.set()
        return patched

    def _store(self, raw: Object) -> None:
        mission = read_mission(raw)
        self._missions[mission.key] = mission

    def _complete(self, raw: Object) -> Object:
        spec = self._schema.fill_defaults(raw["spec"])
        self._schema.validate(spec)
        return {**raw, "spec": spec}


def _with_metadata(raw: Object, namespace: str) -> Object:
    """Return the object with the fields that an API server sets: kind, namespace and creation."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {"namespace": namespace, "creationTimestamp": now, **raw["metadata"]}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Mission", **raw, "metadata": metadata}
