"""Informer: a local copy of one kind of object, kept up to date by one list and one watch."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bem_fleet.services.orchestrator.kube.api import (
    GoneError,
    KubeApi,
    KubeError,
    Object,
    RejectedError,
)
from fleet import logs
from prometheus_client import Counter, Gauge

_LOG = logs.get("orchestrator.informer")
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 5.0
OBJECTS = Gauge("bem_orchestrator_informer_objects", "Objects of an informer.", ["resource"])
LISTS = Counter("bem_orchestrator_informer_lists_total", "Full lists, by resource.", ["resource"])

T = TypeVar("T")


class Informer(Generic[T]):
    """Objects of one collection by ``namespace/name``.

    Args:
        api: Client of the API server.
        path: Path of the collection.
        transform: Returns what is kept of an object; None if the object is not kept.
        on_change: Called after each change that the API server reports.
        on_local_write: Called after each change by ``apply_write``; the watch event of that write
            changes nothing any more, so ``on_change`` is not called for it.
        selector: Label selector.
        name: Name of the only object that is watched, for a permission that is bound to it.
        optional: Whether the informer stays empty if listing the resource is forbidden.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        transform: Callable[[Object], T | None],
        on_change: Callable[[], None],
        *,
        on_local_write: Callable[[], None] = lambda: None,
        selector: str = "",
        name: str = "",
        optional: bool = False,
    ) -> None:
        self.synced = asyncio.Event()
        self._api, self._path, self._transform = api, path, transform
        self._on_change, self._on_local_write = on_change, on_local_write
        self._query = {"labelSelector": selector} if selector else {}
        if name:
            self._query["fieldSelector"] = f"metadata.name={name}"
        self._optional = optional
        self._objects: dict[str, T] = {}
        # Resource versions are decimal numbers that grow within one resource: the collection's, as
        # the watch has reported it, and that of each stored object.
        self._watched_version = 0
        self._versions: dict[str, int] = {}
        kind = path.rstrip("/").rpartition("/")[2]
        self._resource = f"{kind}/{name}" if name else kind

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> T | None:
        """Return the object ``namespace/name``, or ``name`` for a cluster-scoped one."""
        return self._objects.get(key)

    def apply_write(self, written: Object) -> None:
        """Store the object that a write returned, so that readers see it before its watch event.

        The response may come after that event, and even after the event of the object's deletion,
        which would then never be reported again: what the watch has passed is not stored.
        """
        if object_version(written) <= self._watched_version:
            return
        key = object_key(written)
        before = self._objects.get(key)
        self._store(written)
        if self._objects.get(key) != before:
            self._on_local_write()

    def put(self, key: str, kept: T) -> None:
        """Keep something else of an object until its next version."""
        if key in self._objects:
            self._objects[key] = kept

    async def run(self) -> None:
        """List, then watch, until cancelled; interruptions are retried with backoff.

        Raises:
            RejectedError: Listing the resource is forbidden, and it is not optional.
        """
        version, backoff = "", _MIN_BACKOFF_S
        while True:
            try:
                if not version:
                    version = await self._list()
                async for event in self._api.watch(self._path, version, **self._query):
                    # Bookmarks move the version too: a later watch then starts near the present.
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._watched_version = int(version)
                    backoff = _MIN_BACKOFF_S
                    self._handle_event(event)
            except GoneError:
                version = ""
                continue
            except RejectedError as err:
                if self._optional:
                    _LOG.warning("not watched", resource=self._resource, reason=str(err))
                    self.synced.set()
                    return
                raise
            except KubeError as err:
                _LOG.info("watch interrupted", resource=self._resource, reason=str(err)[:200])
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF_S)

    async def _list(self) -> str:
        items, version = await self._api.list(self._path, **self._query)
        LISTS.labels(self._resource).inc()
        self._watched_version = int(version)
        self._objects, self._versions = {}, {}
        for item in items:
            self._store(item)
        OBJECTS.labels(self._resource).set(len(self._objects))
        self.synced.set()
        self._on_change()
        return version

    def _handle_event(self, event: Object) -> None:
        if event["type"] == "BOOKMARK":
            return
        key = object_key(event["object"])
        before = self._objects.get(key)
        if event["type"] == "DELETED":
            self._objects.pop(key, None)
            self._versions.pop(key, None)
        elif object_version(event["object"]) >= self._versions.get(key, 0):
            # An older event than the stored write is skipped: it would set the object back.
            self._store(event["object"])
        # A node's heartbeat changes nothing that is kept of it, and triggers no reconciling.
        if self._objects.get(key) != before:
            OBJECTS.labels(self._resource).set(len(self._objects))
            self._on_change()

    def _store(self, item: Object) -> None:
        key, version, kept = object_key(item), object_version(item), self._transform(item)
        if kept is None:
            self._objects.pop(key, None)
            self._versions.pop(key, None)
        else:
            self._objects[key], self._versions[key] = kept, version


def object_key(item: Object) -> str:
    """Return ``namespace/name`` of an object, ``name`` of a cluster-scoped one."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def object_version(item: Object) -> int:
    """Return the resource version of an object, which grows with every write of its resource."""
    return int(item["metadata"]["resourceVersion"])
