"""One leader among the replicas, by a Lease; the protocol is the Kubernetes client's own."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from json import dumps
from typing import Any

from bem_fleet.services.orchestrator.kube.api import Api, KubeError, Object
from fleet import logs
from kubernetes.aio.client import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock
from prometheus_client import Gauge

_LOG = logs.get("orchestrator.election")
NAME = "bem-orchestrator"
_LEADING = asyncio.Event()
LEADER = Gauge("bem_orchestrator_leader", "1 on the replica that reconciles.")


class Lease(BaseLock):
    """The lock's storage: a Lease, written at the version that was read.

    The client's own ``LeaseLock`` (37.0.2) cannot create one: it passes ``pretty=True`` where its
    validation wants a text, and it takes a server that is away for a programming error.

    Args:
        api: The API server.
        namespace: Where the Lease lies.
        identity: Of this replica.
        owner: Owner reference: the Lease goes when that object goes.
    """

    def __init__(
        self, api: Api, namespace: str, identity: str, owner: Object | None = None
    ) -> None:
        super().__init__(NAME, namespace, identity)
        self._api, self._owner = api, owner
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._read: Object = {}

    async def get(self, name: str, namespace: str) -> Any:  # noqa: ARG002
        """Return the record, or why there is none."""
        try:
            self._read = await self._api.get(f"{self._path}/{name}")
        except KubeError as err:
            missing = ApiException(status=err.status, reason=str(err))
            missing.body = dumps({"code": err.status})
            return False, missing
        spec = self._read.get("spec") or {}
        seconds = spec.get("leaseDurationSeconds")
        record = LeaderElectionRecord(
            spec.get("holderIdentity"),
            str(seconds) if seconds else None,
            spec.get("acquireTime"),
            spec.get("renewTime"),
        )
        return True, record

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:  # noqa: ARG002
        """Make the Lease; False if that fails."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "ownerReferences": [self._owner] if self._owner else []},
            "spec": self._spec(election_record),
        }
        return await self._wrote(self._api.create(self._path, body))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:  # noqa: ARG002
        """Renew the Lease; False if that fails, as it does for who has read an older version."""
        body = {**self._read, "spec": self._spec(updated_record)}
        return await self._wrote(self._api.replace(f"{self._path}/{name}", body))

    def _spec(self, record: Any) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = self._read.get("spec") or {}
        same = old.get("holderIdentity") == record.holder_identity
        return {
            "holderIdentity": record.holder_identity,
            "leaseDurationSeconds": int(float(record.lease_duration)),
            "acquireTime": old.get("acquireTime") if same and old.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not same),
        }

    async def _wrote(self, write: Coroutine[Any, Any, Object]) -> bool:
        try:
            self._read = await write
        except KubeError as err:
            _LOG.info("lease not written", reason=str(err)[:200])
            return False
        return True


async def lead(
    api: Api,
    *,
    namespace: str,
    identity: str,
    duration_s: int,
    work: Callable[[], Coroutine[Any, Any, None]],
    owner: Object | None = None,
) -> None:
    """Run ``work`` while this replica leads; try again whenever it does not. Never returns.

    Args:
        api: The API server.
        namespace: Where the Lease lies.
        identity: Unique among the replicas.
        duration_s: Seconds without renewal after which another replica takes over, at least 4.
        work: What a leader does; cancelled when the lease is lost. If it raises, so does this.
        owner: Owner reference of the Lease.
    """
    lock = Lease(api, namespace, identity, owner)
    while True:
        term = _Term(work, identity)
        election = LeaderElection(
            Config(
                lock,
                lease_duration=duration_s,
                renew_deadline=duration_s * 2 / 3,
                retry_period=max(1.0, duration_s / 7),
                onstarted_leading=term.serve,
                onstopped_leading=_nothing,
            )
        )
        run = asyncio.create_task(election.run())
        try:
            await asyncio.wait({run, term.broken}, return_when=asyncio.FIRST_COMPLETED)
            if term.broken.done():
                term.broken.result()
            run.result()
            _LOG.warning("lease lost", identity=identity)
        finally:
            run.cancel()
            if await term.end():
                await _release(api, namespace)


class _Term:
    """One time in office: the work, its task and what broke it."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], identity: str) -> None:
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work, self._identity = work, identity
        self._task: asyncio.Task[Any] | None = None

    async def serve(self) -> None:
        self._task = asyncio.current_task()
        LEADER.set(1)
        _LEADING.set()
        _LOG.info("leading", identity=self._identity)
        try:
            await self._work()
        except Exception as err:  # noqa: BLE001 - handed on to who waits
            self.broken.set_exception(err)
        finally:
            LEADER.set(0)
            _LEADING.clear()

    async def end(self) -> bool:
        """Cancel the work; returns whether it was still this replica's to do."""
        if self._task is None or self._task.done():
            return False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return True


async def _nothing() -> None:
    """The term is ended by who waits for the election."""


async def _release(api: Api, namespace: str) -> None:
    """Let another replica begin at once instead of after the lease's time."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}"
    try:
        await api.patch(path, {"spec": {"holderIdentity": None}}, "merge")
    except KubeError as err:
        _LOG.info("lease not released", reason=str(err)[:200])


def is_leader() -> bool:
    """Tell whether this replica reconciles."""
    return _LEADING.is_set()
