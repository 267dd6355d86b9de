"""One leader among the replicas, by a Lease; the protocol is the Kubernetes client's own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from fleet import logs
from kubernetes.aio.client import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock
from prometheus_client import Gauge

from services.orchestrator.kube.api import Api, KubeError

_LOG = logs.get("orchestrator.election")
NAME = "bem-orchestrator"
_LEADING = asyncio.Event()
LEADER = Gauge("bem_orchestrator_leader", "1 on the replica that reconciles.")


class Lease(LeaseLock):
    """A Lease whose server may be away: that is a failed try, not the end of the election."""

    async def get(self, name: str, namespace: str) -> Any:
        """Return the record, or why there is none."""
        try:
            return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as err:
            return False, ApiException(status=0, reason=str(err))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Make the Lease; False if that fails."""
        try:
            return bool(await super().create(name, namespace, election_record))
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        """Renew the Lease; False if that fails, as it does for who holds an older version."""
        try:
            return bool(await super().update(name, namespace, updated_record))
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False


async def lead(
    api: Api,
    *,
    namespace: str,
    identity: str,
    duration_s: int,
    work: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Run ``work`` while this replica leads; try again whenever it does not. Never returns.

    Args:
        api: The API server.
        namespace: Where the Lease lies.
        identity: Unique among the replicas.
        duration_s: Seconds without renewal after which another replica takes over, at least 4.
        work: What a leader does; cancelled when the lease is lost. If it raises, so does this.
    """
    lock = Lease(NAME, namespace, identity, api.client)
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
