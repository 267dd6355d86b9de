"""Leader election by a Lease, with the protocol of the Kubernetes client.

Example: replicas ``one`` and ``two``, ``duration_s`` 15. ``one`` creates the Lease and runs the
work; it renews every 2.1 s and gives up by itself after 10 s without a successful renewal. ``two``
reads the Lease every 2.1 s and takes it over once it has not changed for 15 s. The gap of 5 s
between giving up and taking over keeps two leaders from writing at the same time. When ``one``
shuts down, it stops the work and clears ``holderIdentity``; ``two`` then takes over at its next
read.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from json import dumps
from typing import Any

from bem_fleet.services.orchestrator.kube.api import KubeApi, KubeError, Object
from fleet import logs
from kubernetes.aio.client import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock
from prometheus_client import Gauge

_LOG = logs.get("orchestrator.election")
LEASE_NAME = "bem-orchestrator"
LEADER = Gauge("bem_orchestrator_leader", "1 on the replica that reconciles.")
Work = Callable[[], Coroutine[Any, Any, None]]


class Leadership:
    """Whether this replica leads; shared by the election and the servicer."""

    def __init__(self) -> None:
        self._is_leader = False

    def is_leader(self) -> bool:
        """Return whether this replica reconciles."""
        return self._is_leader

    def set_leader(self, *, is_leader: bool) -> None:
        """Record whether this replica leads, also in the metric."""
        self._is_leader = is_leader
        LEADER.set(int(is_leader))


class LeaseStorage(BaseLock):
    """Storage of the election record: a Lease, written at the version that was read.

    The client's own ``LeaseLock`` (37.0.2) cannot create one: it passes ``pretty=True`` where its
    validation requires a string, and it treats an unreachable server as a programming error.

    Args:
        api: Client of the API server.
        namespace: Namespace of the Lease.
        identity: Identity of this replica.
        owner: Owner reference; the Lease is deleted with that object.
    """

    def __init__(
        self, api: KubeApi, namespace: str, identity: str, owner: Object | None = None
    ) -> None:
        super().__init__(LEASE_NAME, namespace, identity)
        self._api, self._owner = api, owner
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._lease: Object = {}

    async def get(self, name: str, namespace: str) -> Any:  # noqa: ARG002 - the base class's
        """Return True and the record, or False and the error."""
        try:
            self._lease = await self._api.get(f"{self._path}/{name}")
        except KubeError as err:
            missing = ApiException(status=err.status, reason=str(err))
            missing.body = dumps({"code": err.status})
            return False, missing
        spec = self._lease.get("spec") or {}
        seconds = spec.get("leaseDurationSeconds")
        record = LeaderElectionRecord(
            spec.get("holderIdentity"),
            str(seconds) if seconds else None,
            spec.get("acquireTime"),
            spec.get("renewTime"),
        )
        return True, record

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:  # noqa: ARG002
        """Create the Lease; returns whether it was created."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "ownerReferences": [self._owner] if self._owner else []},
            "spec": self._spec(election_record),
        }
        return await self._try_write(self._api.create(self._path, body))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:  # noqa: ARG002
        """Renew the Lease; False if it failed, or another replica has written it since."""
        body = {**self._lease, "spec": self._spec(updated_record)}
        return await self._try_write(self._api.replace(f"{self._path}/{name}", body))

    def _spec(self, record: Any) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = self._lease.get("spec") or {}
        same = old.get("holderIdentity") == record.holder_identity
        return {
            "holderIdentity": record.holder_identity,
            "leaseDurationSeconds": int(float(record.lease_duration)),
            "acquireTime": old.get("acquireTime") if same and old.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not same),
        }

    async def _try_write(self, write: Coroutine[Any, Any, Object]) -> bool:
        try:
            self._lease = await write
        except KubeError as err:
            _LOG.info("lease not written", reason=str(err)[:200])
            return False
        return True


async def run_as_leader(
    api: KubeApi,
    leadership: Leadership,
    *,
    namespace: str,
    identity: str,
    duration_s: int,
    work: Work,
    owner: Object | None = None,
) -> None:
    """Run ``work`` while this replica leads, and campaign otherwise, until cancelled.

    Args:
        api: Client of the API server.
        leadership: Told when this replica begins and stops to lead.
        namespace: Namespace of the Lease.
        identity: Identity of this replica, unique among the replicas.
        duration_s: Seconds without renewal after which another replica takes over, at least 4.
        work: Work of the leader; cancelled when the lease is lost. An exception that it raises is
            raised here.
        owner: Owner reference of the Lease.
    """
    storage = LeaseStorage(api, namespace, identity, owner)
    while True:
        term = _LeaderTerm(work, leadership, identity)
        campaign = asyncio.create_task(_election(storage, term, duration_s).run())
        try:
            # The election ends when the lease is lost; the work ends only by an exception.
            await asyncio.wait({campaign, term.failure}, return_when=asyncio.FIRST_COMPLETED)
            if term.failure.done():
                term.failure.result()
            campaign.result()
            _LOG.warning("lease lost", identity=identity)
        finally:
            campaign.cancel()
            # The work stops before the Lease is released: otherwise two replicas would write.
            if await term.stop():
                await _release_lease(api, namespace)


class _LeaderTerm:
    """One term of leadership: the work, its task, and the exception that ended it."""

    def __init__(self, work: Work, leadership: Leadership, identity: str) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work, self._leadership, self._identity = work, leadership, identity
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        self._task = asyncio.current_task()
        self._leadership.set_leader(is_leader=True)
        _LOG.info("leading", identity=self._identity)
        try:
            await self._work()
        except Exception as err:  # noqa: BLE001 - raised again by run_as_leader
            self.failure.set_exception(err)
        finally:
            self._leadership.set_leader(is_leader=False)

    async def stop(self) -> bool:
        """Cancel the work; returns whether it was still running."""
        if self._task is None or self._task.done():
            return False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return True


def _election(storage: LeaseStorage, term: _LeaderTerm, duration_s: int) -> LeaderElection:
    """Return the election of one term.

    The deadline for renewals is shorter than the Lease, so that a leader gives up before another
    replica takes over.
    """
    return LeaderElection(
        Config(
            storage,
            lease_duration=duration_s,
            renew_deadline=duration_s * 2 / 3,
            retry_period=max(1.0, duration_s / 7),
            onstarted_leading=term.run,
            onstopped_leading=_no_op,
        )
    )


async def _no_op() -> None:
    """Do nothing: ``run_as_leader`` stops the work itself."""


async def _release_lease(api: KubeApi, namespace: str) -> None:
    """Clear the holder, so that another replica takes over without waiting."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE_NAME}"
    try:
        await api.patch(path, {"spec": {"holderIdentity": None}}, "merge")
    except KubeError as err:
        _LOG.info("lease not released", reason=str(err)[:200])
