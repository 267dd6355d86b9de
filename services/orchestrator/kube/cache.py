"""A local copy of one kind of object, kept by one list and one watch."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from bem_fleet.services.orchestrator.kube.api import Api, GoneError, KubeError, Object, RefusedError
from fleet import logs
from prometheus_client import Counter, Gauge

_LOG = logs.get("orchestrator.cache")
_PAUSE_S = (0.2, 5.0)
OBJECTS = Gauge("bem_orchestrator_cache_objects", "Objects in a cache.", ["resource"])
RELISTS = Counter("bem_orchestrator_cache_lists_total", "Lists from scratch.", ["resource"])

T = TypeVar("T")


class Cache(Generic[T]):
    """Objects by ``namespace/name``, as of a moment ago; never polled.

    Args:
        api: Where they live.
        path: Of the collection.
        read: Makes of an object what is kept of it, None for what is of no interest.
        changed: Called after each change that the API server tells of.
        wrote: Called after each change that ``put`` makes: its event will tell nothing new.
        selector: Label selector.
        optional: Whether a lack of rights, or of the resource, leaves it empty.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        read: Callable[[Object], T | None],
        changed: Callable[[], None],
        *,
        wrote: Callable[[], None] = lambda: None,
        selector: str = "",
        optional: bool = False,
    ) -> None:
        self.synced = asyncio.Event()
        self._api, self._path, self._read, self._changed = api, path, read, changed
        self._wrote = wrote
        self._query = {"labelSelector": selector} if selector else {}
        self._optional = optional
        self._objects: dict[str, T] = {}
        self._name = path.rstrip("/").rpartition("/")[2]

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> T | None:
        """Return the object ``namespace/name``, or ``name`` of a cluster's."""
        return self._objects.get(key)

    def put(self, given: Object) -> None:
        """Take over what a write returned, so that the next look sees it before its event."""
        before = self._objects.get(key_of(given))
        self._take(given)
        if self._objects.get(key_of(given)) != before:
            self._wrote()

    async def run(self) -> None:
        """Follow the API server for ever; a server that is away is met again when it is back."""
        version, pause = "", _PAUSE_S[0]
        while True:
            try:
                if not version:
                    version = await self._list()
                async for event in self._api.watch(self._path, version, **self._query):
                    version = event["object"]["metadata"]["resourceVersion"]
                    pause = _PAUSE_S[0]
                    self._see(event)
            except GoneError:
                version = ""
                continue
            except RefusedError as err:
                if self._optional:
                    _LOG.warning("not watched", resource=self._name, reason=str(err))
                    self.synced.set()
                    return
                raise
            except KubeError as err:
                _LOG.info("watch interrupted", resource=self._name, reason=str(err)[:200])
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_S[1])

    async def _list(self) -> str:
        items, version = await self._api.list(self._path, **self._query)
        RELISTS.labels(self._name).inc()
        self._objects = {
            key_of(item): kept for item in items if (kept := self._read(item)) is not None
        }
        OBJECTS.labels(self._name).set(len(self._objects))
        self.synced.set()
        self._changed()
        return version

    def _see(self, event: Object) -> None:
        if event["type"] == "BOOKMARK":
            return
        key = key_of(event["object"])
        before = self._objects.get(key)
        if event["type"] == "DELETED":
            self._objects.pop(key, None)
        else:
            self._take(event["object"])
        # A node's heartbeat changes nothing of what is kept of it, and wakes nobody.
        if self._objects.get(key) != before:
            OBJECTS.labels(self._name).set(len(self._objects))
            self._changed()

    def _take(self, given: Object) -> None:
        kept = self._read(given)
        if kept is None:
            self._objects.pop(key_of(given), None)
        else:
            self._objects[key_of(given)] = kept


def key_of(given: Object) -> str:
    """Return ``namespace/name`` of an object, ``name`` of a cluster's."""
    metadata = given["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
