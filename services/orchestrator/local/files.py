"""Missions in a folder, in the place of an API server and its caches."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from bem_fleet.services.orchestrator.assignment.inventory import GpuNode
from bem_fleet.services.orchestrator.kube.api import AbsentError, InvalidError, Object
from bem_fleet.services.orchestrator.mission import GROUP, VERSION, Mission, read_mission
from jsonschema import Draft202012Validator


class MissionFiles:
    """One JSON file a mission; a change is on disk before anyone sees it.

    Args:
        folder: Where they are; each has ``metadata.name`` and ``spec`` at least.
        crd: The resource's definition, whose schema holds here too.
        namespace: Theirs.

    Raises:
        InvalidError: A file is no mission, or the schema refuses it; the message names it.
    """

    def __init__(self, folder: Path, crd: Path, namespace: str) -> None:
        self.changed = asyncio.Event()
        self.listeners: set[asyncio.Event] = set()
        self._folder, self._namespace = folder, namespace
        self._schema = Draft202012Validator(_schema_of_spec(crd))
        self._missions: dict[str, Mission] = {}
        for file in sorted(folder.glob("*.json")):
            try:
                given = json.loads(file.read_text())
                self._take(self._checked(_completed(given, namespace)))
            except (ValueError, KeyError, TypeError) as err:
                raise InvalidError(422, f"{file}: not a mission: {err}") from err

    def __iter__(self) -> Iterator[Mission]:
        return iter(self._missions.values())

    def get(self, key: str) -> Mission | None:
        """Return the mission ``namespace/name``."""
        return self._missions.get(key)

    @property
    def missions(self) -> "MissionFiles":
        """Itself, as a view has its missions."""
        return self

    def gpu_nodes(self) -> list[GpuNode]:
        """Return no node: there is no cluster."""
        return []

    async def patch(self, path: str, body: Object, how: str) -> Object:
        """Merge a patch (RFC 7396) into a mission or its status.

        Args:
            path: As at the API server.
            body: The patch.
            how: ``merge``.

        Raises:
            AbsentError: There is no such mission.
            InvalidError: The schema refuses what would come of it, or it needs a cluster.
        """
        name = path.removesuffix("/status").rpartition("/")[2]
        old = self.get(f"{self._namespace}/{name}")
        if old is None:
            raise AbsentError(404, f"there is no mission {name}")
        if how != "merge":
            raise InvalidError(422, f"a {how} patch needs a cluster")
        made = self._checked(merged(old.raw, body))
        if made != old.raw:
            write(self._folder / f"{name}.json", made)
            self._take(made)
            self.changed.set()
            for listener in self.listeners:
                listener.set()
        return made

    def _take(self, given: Object) -> None:
        mission = read_mission(given)
        self._missions[mission.key] = mission

    def _checked(self, given: Object) -> Object:
        for wrong in self._schema.iter_errors(given["spec"]):
            where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in wrong.path)
            raise InvalidError(422, f"spec{where}: {wrong.message[:300]}")
        canary = given["spec"].get("canary")
        if canary is None:
            return given
        # What follows are the definition's own rules, which are CEL.
        if "model" not in canary or "image" in canary:
            problem = "give model: an image, which is a second Deployment, needs a cluster"
            raise InvalidError(422, f"spec.canary: {problem}")
        weights = [step["weight"] for step in canary.get("steps") or ()]
        if weights != sorted(weights):
            raise InvalidError(422, "spec.canary.steps.weight: must not fall from step to step")
        return given


def merged(old: Any, patch: Any) -> Any:
    """Return ``old`` with a merge patch (RFC 7396) applied; neither is changed."""
    if not isinstance(patch, Mapping):
        return patch
    made = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


def write(file: Path, given: Object) -> None:
    """Replace a file: whoever reads it, after a crash too, finds the old one or the new one."""
    draft = file.with_suffix(".draft")
    with draft.open("w") as stream:
        json.dump(given, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _completed(given: Object, namespace: str) -> Object:
    """Add what an API server would: kind, namespace and the time of creation."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {"namespace": namespace, "creationTimestamp": now, **given["metadata"]}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Mission", **given, "metadata": metadata}


def _schema_of_spec(crd: Path) -> Object:
    version = yaml.safe_load(crd.read_text())["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found: Object = _closed(spec)
    return found


def _closed(schema: Any) -> Any:
    """Return the schema with unknown keys refused, which an API server warns of and drops."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made
