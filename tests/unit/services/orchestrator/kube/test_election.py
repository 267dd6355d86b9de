"""Leader election against a real API server."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.kube.election import (
    LEASE_NAME,
    Leadership,
    LeaseStorage,
    run_as_leader,
)

from tests.integration.clusters import needs_kubernetes

pytestmark = [pytest.mark.slow, needs_kubernetes()]
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{LEASE_NAME}"


class Replica:
    """A replica that campaigns, and counts how often it works."""

    def __init__(self, api: KubeApi, identity: str) -> None:
        self.leadership, self.started, self.stopped = Leadership(), asyncio.Event(), False
        self.task = asyncio.create_task(
            run_as_leader(
                api,
                self.leadership,
                namespace="default",
                identity=identity,
                duration_s=4,
                work=self._work,
            )
        )

    async def _work(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True

    async def end(self) -> None:
        """End it in order."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_one_leads_and_the_other_follows_at_once(api: KubeApi) -> None:
    """Two replicas never lead together; a leader that ends in order hands over without waiting."""
    await api.delete(LEASE)
    first = Replica(api, "one")
    await asyncio.wait_for(first.started.wait(), 30)
    second = Replica(api, "two")
    await asyncio.sleep(1.5)
    together = (first.leadership.is_leader(), second.leadership.is_leader())
    await first.end()
    await asyncio.wait_for(second.started.wait(), 30)
    after = (first.leadership.is_leader(), second.leadership.is_leader())
    await second.end()

    assert together == (True, False)
    assert after == (False, True)
    assert first.stopped
    assert second.stopped


async def test_an_error_of_the_work_is_raised(api: KubeApi) -> None:
    """A leader whose work fails does not stay leader without working."""
    await api.delete(LEASE)

    async def broken() -> None:
        raise RuntimeError("broken work")

    leadership = Leadership()
    with pytest.raises(RuntimeError, match="broken work"):
        await asyncio.wait_for(
            run_as_leader(
                api, leadership, namespace="default", identity="x", duration_s=4, work=broken
            ),
            30,
        )

    assert not leadership.is_leader()


class Record:
    """An election record as the client's election makes it."""

    def __init__(self, holder: str) -> None:
        self.holder_identity, self.lease_duration = holder, "4"


async def test_a_lease_is_written_at_the_version_that_was_read(api: KubeApi) -> None:
    """Of two replicas that read the same version only one renews; transitions are counted."""
    await api.delete(LEASE)
    one, two = LeaseStorage(api, "default", "one"), LeaseStorage(api, "default", "two")
    missing, error = await one.get(LEASE_NAME, "default")
    created = await one.create(LEASE_NAME, "default", Record("one"))
    await one.get(LEASE_NAME, "default")
    await two.get(LEASE_NAME, "default")
    renewed: list[Any] = [
        await storage.update(LEASE_NAME, "default", Record(name))
        for storage, name in ((two, "two"), (one, "one"))
    ]
    spec = (await api.get(LEASE))["spec"]
    await api.delete(LEASE)

    assert (missing, error.status, created) == (False, 404, True)
    assert renewed == [True, False]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 2)
