"""Reconciler against a real API server, one pass at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.mission import FINALIZER
from bem_fleet.services.orchestrator.reconciler import Reconciler
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from prometheus_client import REGISTRY

from tests.integration.clusters import ControlPlane, deployment, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import DEPLOYMENTS, MISSIONS, make_ready, status
from tests.unit.services.orchestrator.test_rollout import Advice

pytestmark = [pytest.mark.slow, needs_kubernetes()]
NAME = "reconciled"


@pytest.fixture(autouse=True)
def objects(plane: ControlPlane) -> Iterator[None]:
    """A mission with its Deployment, removed after the test."""
    plane.call("POST", DEPLOYMENTS, deployment(NAME))
    plane.call("POST", MISSIONS, mission_object(NAME, model="qa"))
    yield
    with suppress(OSError):
        plane.merge(f"{MISSIONS}/{NAME}", {"metadata": {"finalizers": None}})
        plane.call("DELETE", f"{MISSIONS}/{NAME}")
    plane.call("DELETE", DEPLOYMENTS)


@asynccontextmanager
async def reconciling(
    api: KubeApi, advice: Advice
) -> AsyncIterator[tuple[Reconciler, ClusterView]]:
    """Yield a reconciler whose informers run; passes are the test's."""
    settings = OrchestratorSettings(debounce_s=0, canary_drain_s=0)
    view = ClusterView(api, settings)
    informers = [asyncio.create_task(informer.run()) for informer in view.informers]
    await asyncio.wait_for(view.synced(), 30)
    yield Reconciler(api, view, advice, settings), view
    for task in informers:
        task.cancel()
    await asyncio.gather(*informers, return_exceptions=True)


def writes() -> float:
    """Return the number of writes to the API server so far."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "bem_orchestrator_api_requests_total"
        and sample.labels["verb"] in ("apply", "merge", "strategic", "create", "delete")
    )


async def settle(reconciler: Reconciler, limit: int = 10) -> int:
    """Reconcile until a pass writes nothing; returns the number of passes."""
    for count in range(limit):
        before = writes()
        await reconciler.reconcile_all()
        if writes() == before:
            return count
        await asyncio.sleep(0.3)  # the informers see what was written
    raise AssertionError(f"still writing after {limit} passes")


async def test_a_pass_without_changes_writes_nothing(plane: ControlPlane, api: KubeApi) -> None:
    """Status, placement and finalizer are written once, and then there is nothing to do."""
    async with reconciling(api, Advice()) as (reconciler, _):
        passes = await settle(reconciler)
        before = writes()
        await reconciler.reconcile_all()
        after = writes()

    assert passes > 0
    assert after == before
    assert status(plane, NAME)["phase"] in ("Pending", "Progressing")
    assert FINALIZER in plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"]["finalizers"]


async def test_a_conflicting_write_is_dropped_and_repeated(
    plane: ControlPlane, api: KubeApi
) -> None:
    """A status of an old version is not written over what somebody changed meanwhile."""
    async with reconciling(api, Advice()) as (reconciler, view):
        mission = view.get_mission(f"default/{NAME}")
        assert mission is not None
        plane.merge(f"{MISSIONS}/{NAME}", {"metadata": {"annotations": {"changed": "meanwhile"}}})
        view.missions.apply_write(mission.raw)  # the informer has not seen the change yet
        view.changed.clear()
        await reconciler.reconcile_all()
        repeated = view.changed.is_set()
        await asyncio.sleep(0.5)
        await settle(reconciler)

    assert repeated
    assert status(plane, NAME)["phase"]
    annotations = plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"]["annotations"]
    assert annotations["changed"] == "meanwhile"


async def test_a_canary_starts_and_a_command_ends_it(plane: ControlPlane, api: KubeApi) -> None:
    """The state is in the status before anything follows from it; the annotation is removed."""
    async with reconciling(api, Advice(loaded=True)) as (reconciler, _):
        await settle(reconciler)
        make_ready(plane, NAME)
        plane.merge(f"{MISSIONS}/{NAME}", {"spec": {"canary": {"model": "qa-v2"}}})
        await asyncio.sleep(0.5)
        await settle(reconciler)
        running = status(plane, NAME)["canary"]
        abort: dict[str, Any] = {"annotations": {"fleet.bem.dev/canary": "abort"}}
        plane.merge(f"{MISSIONS}/{NAME}", {"metadata": abort})
        await asyncio.sleep(0.5)
        await settle(reconciler)
        ended = status(plane, NAME)["canary"]
        left = plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"].get("annotations") or {}

    assert (running["phase"], running["weight"]) == ("Canary", 5)
    assert (ended["phase"], ended["weight"]) == ("RolledBack", 0)
    assert ended["reason"] == "aborted by a person"
    assert "fleet.bem.dev/canary" not in left


async def test_a_deleted_mission_is_finalized(plane: ControlPlane, api: KubeApi) -> None:
    """It is gone only after the reconciler has released what it had."""
    async with reconciling(api, Advice()) as (reconciler, view):
        await settle(reconciler)
        plane.call("DELETE", f"{MISSIONS}/{NAME}")
        waiting = plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"]
        async with asyncio.timeout(60):
            while view.get_mission(f"default/{NAME}") is not None:
                await settle(reconciler)
                await asyncio.sleep(0.1)

    assert "deletionTimestamp" in waiting
