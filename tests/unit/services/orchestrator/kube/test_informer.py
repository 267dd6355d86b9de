"""Informer against a real API server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from bem_fleet.services.orchestrator.kube.api import KubeApi, Object
from bem_fleet.services.orchestrator.kube.informer import Informer, object_key

from tests.integration.clusters import ControlPlane, needs_kubernetes
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, needs_kubernetes()]
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def read_data(item: Object) -> dict[str, str] | None:
    """Keep the data of ConfigMaps that are labelled by these tests."""
    return item.get("data") or None


@asynccontextmanager
async def running(
    api: KubeApi,
    on_change: Callable[[], None],
    selector: str,
    on_local_write: Callable[[], None] = lambda: None,
) -> AsyncIterator[Informer[dict[str, str]]]:
    """Run an informer of labelled ConfigMaps."""
    informer = Informer(
        api,
        CONFIG_MAPS,
        read_data,
        on_change,
        on_local_write=on_local_write,
        selector=selector,
    )
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(informer.synced.wait(), 30)
    yield informer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def labelled(name: str, test: str, **data: str) -> Object:
    """Return a ConfigMap with a label of one test."""
    return {"metadata": {"name": name, "labels": {"test": test}}, "data": data}


async def test_the_copy_follows_the_server(api: KubeApi) -> None:
    """What is created, changed and deleted is seen, and what the selector excludes is not."""
    changes: list[int] = []
    await api.create(CONFIG_MAPS, labelled("first", "follow", a="1"))
    async with running(api, lambda: changes.append(1), "test=follow") as informer:
        listed = informer.get("default/first")
        await api.create(CONFIG_MAPS, labelled("second", "follow", b="2"))
        await api.create(CONFIG_MAPS, labelled("other", "elsewhere", b="2"))
        await eventually(lambda: len(informer) == 2, 30)
        await api.patch(f"{CONFIG_MAPS}/first", {"data": {"a": "3"}}, "merge")
        await eventually(lambda: informer.get("default/first") == {"a": "3"}, 30)
        for name in ("first", "second", "other"):
            await api.delete(f"{CONFIG_MAPS}/{name}")
        await eventually(lambda: len(informer) == 0, 30)

    assert listed == {"a": "1"}
    assert len(changes) >= 4


async def test_an_irrelevant_change_triggers_nothing(api: KubeApi) -> None:
    """A change of what is not kept calls nobody; a local write is reported exactly once."""
    changes: list[int] = []
    local: list[int] = []
    await api.create(CONFIG_MAPS, labelled("quiet", "quiet", a="1"))
    async with running(
        api, lambda: changes.append(1), "test=quiet", lambda: local.append(1)
    ) as informer:
        before = len(changes)
        annotated = {"metadata": {"annotations": {"x": "y"}}}
        informer.apply_write(await api.patch(f"{CONFIG_MAPS}/quiet", annotated, "merge"))
        # Watch events come in order: with the marker's, the annotation's has been handled.
        await api.create(CONFIG_MAPS, labelled("first-marker", "quiet", m="1"))
        await eventually(lambda: informer.get("default/first-marker") is not None, 30)
        informer.apply_write(await api.patch(f"{CONFIG_MAPS}/quiet", {"data": {"a": "2"}}, "merge"))
        written = informer.get("default/quiet")
        await api.create(CONFIG_MAPS, labelled("marker", "quiet", m="1"))
        await eventually(lambda: informer.get("default/marker") is not None, 30)
        after = len(changes)
    for name in ("quiet", "first-marker", "marker"):
        await api.delete(f"{CONFIG_MAPS}/{name}")

    assert written == {"a": "2"}
    # Two changes are the markers. The write's response and its watch event race: whichever comes
    # first reports the change.
    assert (after - before - 2) + len(local) == 1


async def test_a_late_response_revives_nothing(api: KubeApi) -> None:
    """What a write returned is not stored after the watch has reported a later deletion."""
    await api.create(CONFIG_MAPS, labelled("gone", "late", a="1"))
    async with running(api, lambda: None, "test=late") as informer:
        written = await api.patch(f"{CONFIG_MAPS}/gone", {"data": {"a": "2"}}, "merge")
        await api.delete(f"{CONFIG_MAPS}/gone")
        await eventually(lambda: len(informer) == 0, 30)
        informer.apply_write(written)
        revived = informer.get("default/gone")

    assert revived is None


async def test_an_older_event_does_not_undo_a_write(plane: ControlPlane, api: KubeApi) -> None:
    """The events between the informer's version and a stored write set nothing back."""
    copies: list[Informer[dict[str, str]]] = []
    seen: list[dict[str, str] | None] = []
    await api.create(CONFIG_MAPS, labelled("ahead", "ahead", a="1"))
    async with running(
        api, lambda: seen.extend(copy.get("default/ahead") for copy in copies), "test=ahead"
    ) as informer:
        copies.append(informer)
        # Both writes before the event loop runs: the first one's event comes after the second's
        # response.
        plane.merge(f"{CONFIG_MAPS}/ahead", {"data": {"a": "2"}})
        informer.apply_write(plane.merge(f"{CONFIG_MAPS}/ahead", {"data": {"a": "3"}}))
        await api.create(CONFIG_MAPS, labelled("marker", "ahead", m="1"))
        await eventually(lambda: informer.get("default/marker") is not None, 30)
    for name in ("ahead", "marker"):
        await api.delete(f"{CONFIG_MAPS}/{name}")

    assert seen == [{"a": "3"}]


async def test_it_lists_again_after_the_server_was_away(plane: ControlPlane, api: KubeApi) -> None:
    """A restart of the API server is an interruption, and later changes are seen."""
    async with running(api, lambda: None, "test=restart") as informer:
        await asyncio.to_thread(plane.kill_api)
        await asyncio.to_thread(plane.start_api)
        await api.create(CONFIG_MAPS, labelled("late", "restart", a="1"))
        await eventually(lambda: informer.get("default/late") == {"a": "1"}, 30)
    await api.delete(f"{CONFIG_MAPS}/late")


def test_keys_name_the_namespace_where_there_is_one() -> None:
    """A cluster-scoped object is named by itself."""
    assert object_key({"metadata": {"name": "n", "namespace": "s"}}) == "s/n"
    assert object_key({"metadata": {"name": "n"}}) == "n"
