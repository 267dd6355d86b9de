"""Reconciler against a real API server, one pass at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from bem_fleet.services.orchestrator.cluster_view import ClusterView
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.mission import (
    REPLICAS,
    RETIRED_FINALIZER,
    VALUES_REPLICAS,
)
from bem_fleet.services.orchestrator.reconciler import Reconciler
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from prometheus_client import REGISTRY

from tests.integration.clusters import ControlPlane, deployment, needs_kubernetes
from tests.integration.clusters import mission as mission_object
from tests.integration.orchestrators import DEPLOYMENTS, MISSIONS, condition, make_ready, status
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
    """Status and placement are written once, and then there is nothing to do; no finalizer."""
    async with reconciling(api, Advice()) as (reconciler, _):
        passes = await settle(reconciler)
        before = writes()
        await reconciler.reconcile_all()
        after = writes()

    assert passes > 0
    assert after == before
    assert status(plane, NAME)["phase"] in ("Pending", "Progressing")
    assert "finalizers" not in plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"]


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


async def test_a_deleted_mission_is_gone_and_gives_back(plane: ControlPlane, api: KubeApi) -> None:
    """It waits for nobody, and its Deployment keeps nothing of its placement."""
    async with reconciling(api, Advice()) as (reconciler, view):
        await settle(reconciler)
        placed = plane.call("GET", f"{DEPLOYMENTS}/{NAME}")["metadata"]["annotations"]
        plane.call("DELETE", f"{MISSIONS}/{NAME}")
        async with asyncio.timeout(60):
            while view.get_mission(f"default/{NAME}") is not None:
                view.changed.clear()
                await view.changed.wait()
        await settle(reconciler)
        left = plane.call("GET", f"{DEPLOYMENTS}/{NAME}")["metadata"].get("annotations") or {}
        names = [one["metadata"]["name"] for one in plane.call("GET", MISSIONS)["items"]]

    assert placed[REPLICAS] == "1"
    assert NAME not in names
    assert REPLICAS not in left


async def test_a_finalizer_of_an_earlier_version_is_removed(
    plane: ControlPlane, api: KubeApi
) -> None:
    """It would keep a namespace that is deleted with its orchestrator."""
    finalizers = {"finalizers": ["example.com/other", RETIRED_FINALIZER]}
    plane.merge(f"{MISSIONS}/{NAME}", {"metadata": finalizers})
    async with reconciling(api, Advice()) as (reconciler, _):
        await settle(reconciler)
        left = plane.call("GET", f"{MISSIONS}/{NAME}")["metadata"]["finalizers"]

    assert left == ["example.com/other"]


async def test_an_unreadable_mission_stops_no_other(plane: ControlPlane, api: KubeApi) -> None:
    """It says what is wrong, once, and goes on as soon as it is mended."""
    path = f"{MISSIONS}/broken"
    plane.call("POST", MISSIONS, mission_object("broken"))
    wrong = {"status": {"canary": {"id": "x", "phase": "Sideways"}}}
    plane.merge(f"{path}/status", wrong)
    async with reconciling(api, Advice()) as (reconciler, view):
        await settle(reconciler)
        (found,) = view.unreadable_missions()
        events = "/apis/events.k8s.io/v1/namespaces/default/events"
        said = [one["reason"] for one in plane.call("GET", events)["items"]]
        (condition,) = status(plane, "broken")["conditions"]
        others = status(plane, NAME)["phase"]
        plane.merge(f"{path}/status", {"status": {"canary": None}})
        await asyncio.sleep(0.5)
        await settle(reconciler)
        mended = [one["type"] for one in status(plane, "broken")["conditions"]]
    plane.call("DELETE", path)

    assert found.key == "default/broken"
    assert (condition["type"], condition["status"]) == ("Readable", "False")
    assert "'Sideways'" in condition["message"]
    assert said.count("Unreadable") == 1
    assert others in ("Pending", "Progressing")
    assert "Readable" not in mended
    assert "Ready" in mended


async def test_a_workload_without_the_label_is_not_touched(
    plane: ControlPlane, api: KubeApi
) -> None:
    """A template without the mission's label is a condition, and nothing is applied to it.

    Made anew with the label, as the operations guide says, it is the mission's.
    """
    path = f"{DEPLOYMENTS}/{NAME}"
    plane.call("DELETE", DEPLOYMENTS)
    made = deployment(NAME)
    made["spec"]["selector"] = {"matchLabels": {"app": NAME}}
    made["spec"]["template"]["metadata"]["labels"] = {"app": NAME}
    plane.call("POST", DEPLOYMENTS, made)
    async with reconciling(api, Advice()) as (reconciler, _):
        before = plane.call("GET", path)["metadata"]["generation"]
        await settle(reconciler)
        after = plane.call("GET", path)["metadata"]
        found = condition(plane, NAME, "WorkloadFound")
        plane.call("DELETE", path)
        plane.call("POST", DEPLOYMENTS, deployment(NAME))
        await asyncio.sleep(0.5)
        await settle(reconciler)
    mended = condition(plane, NAME, "WorkloadFound")

    assert (found["status"], found["reason"]) == ("False", "TemplateUnlabelled")
    assert mended["status"] == "True"
    assert after["generation"] == before
    assert REPLICAS not in (after.get("annotations") or {})


async def test_replicas_of_values_apply_when_they_change(plane: ControlPlane, api: KubeApi) -> None:
    """Values set the number once; `kubectl scale` decides until they name another."""
    path = f"{MISSIONS}/{NAME}"

    def wanted(number: str) -> None:
        plane.merge(path, {"metadata": {"annotations": {VALUES_REPLICAS: number}}})

    numbers = []
    async with reconciling(api, Advice()) as (reconciler, _):
        for change in (
            partial(wanted, "3"),
            partial(plane.merge, path, {"spec": {"replicas": 2}}),
            partial(wanted, "3"),
            partial(wanted, "4"),
        ):
            change()
            await asyncio.sleep(0.5)
            await settle(reconciler)
            numbers.append(plane.call("GET", path)["spec"]["replicas"])

    assert numbers == [3, 2, 2, 4]


async def test_a_stopped_mission_is_woken_by_scaling(plane: ControlPlane, api: KubeApi) -> None:
    """An autoscaler leaves a Mission at 0 alone; `kubectl scale mission` brings its pod back."""
    path = f"{MISSIONS}/{NAME}"
    numbers = []
    async with reconciling(api, Advice()) as (reconciler, _):
        for count in (0, 1):
            plane.merge(f"{path}/scale", {"spec": {"replicas": count}})
            await asyncio.sleep(0.5)
            await settle(reconciler)
            numbers.append(plane.call("GET", f"{DEPLOYMENTS}/{NAME}")["spec"]["replicas"])

    assert numbers == [0, 1]


async def test_a_promotion_is_in_force_again(plane: ControlPlane, api: KubeApi) -> None:
    """Stable with another image than the promoted one is told, until it has that image again."""
    images = ("registry.local/mission:2", "registry.local/mission:1", "registry.local/mission:2")
    promoted = {"id": "x", "phase": "Promoted", "image": images[0]}
    told = []
    async with reconciling(api, Advice()) as (reconciler, _):
        plane.merge(f"{MISSIONS}/{NAME}/status", {"status": {"canary": promoted}})
        for image in images:
            container = {"name": "mission", "image": image}
            body = {"spec": {"template": {"spec": {"containers": [container]}}}}
            plane.merge(f"{DEPLOYMENTS}/{NAME}", body)
            await asyncio.sleep(0.5)
            await settle(reconciler)
            told.append(condition(plane, NAME, "PromotionInForce")["status"])

    assert told == ["True", "False", "True"]
