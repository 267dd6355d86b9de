"""Restarts of what reads a changed Secret, at a real API server."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from bem_fleet.services.orchestrator.kube.api import KubeApi
from bem_fleet.services.orchestrator.secret_restarts import SecretRestarts
from bem_fleet.services.orchestrator.secret_uses import KNOWN, RESTARTED
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from fleet.testing import free_port

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, needs_kubernetes()]
SECRETS = "/api/v1/namespaces/default/secrets"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}
SETTINGS = OrchestratorSettings(
    deployment="own",
    restart_secrets=("passwords",),
    restart_stateful_sets=("store", "witness"),
    secret_interval_s=0.1,
    secret_settle_s=0,
)


def path(kind: str, name: str = "") -> str:
    """Return the path of a workload, or of all of a kind."""
    return f"/apis/apps/v1/namespaces/default/{PLURALS[kind]}/{name}".rstrip("/")


def reader(kind: str, name: str, key: str = "", **labels: str) -> dict[str, Any]:
    """Return a workload that reads one key of the Secret, or all of them."""
    items = {"items": [{"key": key, "path": key}]} if key else {}
    marks = {"app": name, "app.kubernetes.io/part-of": "bem-fleet", **labels}
    store = {"serviceName": name} if kind == "StatefulSet" else {}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "labels": marks},
        "spec": {
            **store,
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": marks},
                "spec": {
                    "containers": [{"name": "c", "image": "registry.local/c:1"}],
                    "volumes": [{"name": "p", "secret": {"secretName": "passwords", **items}}],
                },
            },
        },
    }


def rotate(plane: ControlPlane, **texts: str) -> None:
    """Change keys of the Secret as ``kubectl patch`` does."""
    plane.merge(f"{SECRETS}/passwords", {"stringData": texts})


def mark(plane: ControlPlane, kind: str, name: str) -> str:
    """Return the annotation by which pods are replaced; empty without one."""
    template = plane.call("GET", path(kind, name))["spec"]["template"]["metadata"]
    return str((template.get("annotations") or {}).get(RESTARTED, ""))


def restarted(plane: ControlPlane) -> set[str]:
    """Return the names of the workloads whose pods have been replaced."""
    return {
        one["metadata"]["name"]
        for kind in PLURALS
        for one in plane.call("GET", path(kind))["items"]
        if mark(plane, kind, one["metadata"]["name"])
    }


def make_ready(plane: ControlPlane, kind: str, name: str) -> None:
    """Play the controller and the kubelet: the pod is new and ready."""
    generation = plane.call("GET", path(kind, name))["metadata"]["generation"]
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas"), 1)
    status = {"observedGeneration": generation, **counts}
    plane.merge(f"{path(kind, name)}/status", {"status": status})


@pytest.fixture(autouse=True)
def workloads(plane: ControlPlane) -> Iterator[None]:
    """A store, its witness, two services and the orchestrator itself, removed after the test."""
    secret = {"metadata": {"name": "passwords"}, "stringData": {"a": "1", "b": "1"}}
    plane.call("POST", SECRETS, secret)
    made = [
        reader("StatefulSet", "store"),
        reader("StatefulSet", "witness", "a"),
        reader("Deployment", "first", "a"),
        reader("Deployment", "second", "b"),
        reader("Deployment", "own", "a"),
        reader("Deployment", "foreign", "a", **{"app.kubernetes.io/part-of": "other"}),
    ]
    for one in made:
        plane.call("POST", path(one["kind"]), one)
    yield
    with suppress(OSError):
        plane.call("DELETE", f"{SECRETS}/passwords")
    for kind in PLURALS:
        plane.call("DELETE", path(kind))
    plane.call("DELETE", EVENTS)


@asynccontextmanager
async def restarting(
    api: KubeApi, settings: OrchestratorSettings = SETTINGS
) -> AsyncIterator[SecretRestarts]:
    """Yield restarts whose informers run; passes are the test's."""
    restarts = SecretRestarts(api, settings)
    informers = [asyncio.create_task(one.run()) for one in restarts.informers]
    for one in restarts.informers:
        await asyncio.wait_for(one.synced.wait(), 30)
    yield restarts
    for task in informers:
        task.cancel()
    await asyncio.gather(*informers, return_exceptions=True)


async def passed(restarts: SecretRestarts, plane: ControlPlane, key: str, text: str) -> None:
    """Rotate a key, wait until the informer has seen it, and make one pass."""
    rotate(plane, **{key: text})
    value = base64.b64encode(text.encode()).decode()
    (informer,) = restarts.informers
    await eventually(lambda: [one for one in informer if one["data"].get(key) == value], 30)
    await restarts.restart_outdated()


async def test_redis_is_ready_before_the_others_restart(plane: ControlPlane, api: KubeApi) -> None:
    """Store, witness, services; the orchestrator last; each is told by an Event."""
    async with restarting(api) as restarts:
        await restarts.restart_outdated()
        before = restarted(plane)
        await passed(restarts, plane, "a", "2")
        steps = [restarted(plane)]
        for name in ("store", "witness"):
            waits = await restarts.restart_outdated()
            make_ready(plane, "StatefulSet", name)
            await restarts.restart_outdated()
            steps.append(restarted(plane))
            assert waits is False
    notes = {
        (one["regarding"]["kind"], one["regarding"]["name"]): one["note"]
        for one in plane.call("GET", EVENTS)["items"]
        if one["reason"] == "SecretChanged"
    }

    assert before == set()
    assert steps == [{"store"}, {"store", "witness"}, {"store", "witness", "first", "own"}]
    assert set(notes) == {
        ("StatefulSet", "store"),
        ("StatefulSet", "witness"),
        ("Deployment", "first"),
        ("Deployment", "own"),
    }
    said = "the keys passwords/a of Secrets have changed; pods are replaced"
    assert notes["Deployment", "first"] == said


async def test_a_new_leader_continues(plane: ControlPlane, api: KubeApi) -> None:
    """What was restarted is in annotations, so that nothing restarts twice or not at all."""
    async with restarting(api) as first:
        await first.restart_outdated()
        await passed(first, plane, "a", "2")
    marked = mark(plane, "StatefulSet", "store")
    async with restarting(api) as second:
        held = await second.restart_outdated()
        make_ready(plane, "StatefulSet", "store")
        await second.restart_outdated()
        make_ready(plane, "StatefulSet", "witness")
        done = await second.restart_outdated()

    assert (held, done) == (False, True)
    assert mark(plane, "StatefulSet", "store") == marked
    assert restarted(plane) == {"store", "witness", "first", "own"}


async def test_only_readers_of_the_changed_key_restart(plane: ControlPlane, api: KubeApi) -> None:
    """A label of the Secret and a key that nobody reads restart no service; ``b`` restarts one."""
    make_ready(plane, "StatefulSet", "witness")
    async with restarting(api) as restarts:
        await restarts.restart_outdated()
        plane.merge(f"{SECRETS}/passwords", {"metadata": {"labels": {"seen": "yes"}}})
        await passed(restarts, plane, "c", "1")
        untouched = restarted(plane)
        await passed(restarts, plane, "b", "2")
        make_ready(plane, "StatefulSet", "store")
        await restarts.restart_outdated()

    assert untouched == set()
    assert restarted(plane) == {"store", "second"}


async def test_tools_that_apply_manifests_see_no_drift(plane: ControlPlane, api: KubeApi) -> None:
    """A later apply of the same manifest without force has no conflict and changes nothing."""
    manifest = reader("Deployment", "applied", "a")
    query = "fieldManager=argocd-controller"
    applied = "apply-patch+yaml"
    plane.call("PATCH", f"{path('Deployment', 'applied')}?{query}", manifest, kind=applied)
    make_ready(plane, "StatefulSet", "store")
    make_ready(plane, "StatefulSet", "witness")
    async with restarting(api) as restarts:
        await restarts.restart_outdated()
        await passed(restarts, plane, "a", "2")
        for name in ("store", "witness"):
            make_ready(plane, "StatefulSet", name)
            await restarts.restart_outdated()
    before = plane.call("GET", path("Deployment", "applied"))
    after = plane.call("PATCH", f"{path('Deployment', 'applied')}?{query}", manifest, kind=applied)
    owners = {one["manager"] for one in before["metadata"]["managedFields"]}

    assert mark(plane, "Deployment", "applied")
    assert owners == {"argocd-controller", "bem-secret-restarts"}
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_foreign_deployments_are_left_alone(plane: ControlPlane, api: KubeApi) -> None:
    """A Deployment outside the fleet is not annotated, whatever it reads."""
    async with restarting(api) as restarts:
        await restarts.restart_outdated()
    known = {
        one["metadata"]["name"]
        for kind in PLURALS
        for one in plane.call("GET", path(kind))["items"]
        if KNOWN in one["metadata"].get("annotations", {})
    }

    assert known == {"store", "witness", "first", "second", "own"}


async def test_a_lost_api_server_costs_one_interval(plane: ControlPlane, api: KubeApi) -> None:
    """A replica that leads restarts after a change, also when the pass before it failed."""
    for name in ("store", "witness"):
        make_ready(plane, "StatefulSet", name)
    leads = False
    async with restarting(api) as restarts:
        await restarts.restart_outdated()
        running = asyncio.create_task(restarts.run(lambda: leads))
        rotate(plane, b="2")
        await asyncio.sleep(0.5)  # a replica that does not lead writes nothing
        without_lead = restarted(plane)
        host, api.host = api.host, f"https://127.0.0.1:{free_port()}"
        leads = True
        await asyncio.sleep(0.5)  # passes fail meanwhile
        api.host = host
        await eventually(lambda: restarted(plane) == {"store"}, 30)
        make_ready(plane, "StatefulSet", "store")
        await eventually(lambda: restarted(plane) == {"store", "second"}, 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert without_lead == set()


async def test_without_secrets_nothing_runs(api: KubeApi) -> None:
    """The chart's value that turns it off leaves the list empty."""
    restarts = SecretRestarts(api, OrchestratorSettings())
    await asyncio.wait_for(restarts.run(lambda: True), 5)

    assert restarts.informers == []
