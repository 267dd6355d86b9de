"""Kubernetes API client against a real API server."""

import asyncio
import json
from typing import Any, cast

import pytest
from aiohttp import web
from bem_fleet.services.orchestrator.kube.api import (
    ConflictError,
    GoneError,
    InvalidError,
    KubeApi,
    ObjectNotFoundError,
    RejectedError,
    UnreachableError,
    connect,
)
from fleet.testing import free_port
from kubernetes.aio import client

from tests.integration.clusters import ControlPlane, needs_kubernetes

pytestmark = [pytest.mark.slow, needs_kubernetes()]
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> dict[str, object]:
    """Return a ConfigMap."""
    return {"metadata": {"name": name}, "data": data}


async def test_objects_are_created_read_patched_and_deleted(api: KubeApi) -> None:
    """Every verb reaches the API server; deleting twice is not an error."""
    path = f"{CONFIG_MAPS}/verbs"
    await api.create(CONFIG_MAPS, config_map("verbs", a="1"))
    await api.patch(path, {"data": {"b": "2"}}, "merge")
    read = await api.get(path)
    replaced = await api.replace(path, {**read, "data": {"c": "3"}})
    items, version = await api.list(CONFIG_MAPS)
    await api.delete(path)
    await api.delete(path)

    assert read["data"] == {"a": "1", "b": "2"}
    assert replaced["data"] == {"c": "3"}
    assert "verbs" in {item["metadata"]["name"] for item in items}
    assert int(version) > 0


async def test_an_apply_owns_its_fields(api: KubeApi) -> None:
    """A field that a later apply omits is removed, and those of others stay."""
    path = f"{CONFIG_MAPS}/applied"
    base = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
    await api.patch(path, {**base, "data": {"ours": "1"}}, "apply")
    await api.patch(path, {"data": {"theirs": "1"}}, "merge", fieldManager="somebody")
    applied = await api.patch(path, base, "apply")
    await api.delete(path)

    assert applied["data"] == {"theirs": "1"}


async def test_errors_are_classified_by_what_to_do(api: KubeApi) -> None:
    """An old version conflicts, an absent object is not found, a wrong one is invalid."""
    path = f"{CONFIG_MAPS}/errors"
    created = await api.create(CONFIG_MAPS, config_map("errors"))
    await api.patch(path, {"data": {"a": "1"}}, "merge")
    old = created["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError):
        await api.patch(path, {"metadata": {"resourceVersion": old}}, "merge")
    with pytest.raises(ObjectNotFoundError) as absent:
        await api.get(f"{CONFIG_MAPS}/absent")
    with pytest.raises(InvalidError, match=r"metadata\.name"):
        await api.create(CONFIG_MAPS, config_map("Not A Name"))
    await api.delete(path)

    assert absent.value.status == 404


async def test_a_watch_yields_what_follows_the_list(api: KubeApi) -> None:
    """Events begin after the version of the list."""
    _, version = await api.list(CONFIG_MAPS)
    watch = api.watch(CONFIG_MAPS, version)
    following = asyncio.ensure_future(anext(watch))
    await api.create(CONFIG_MAPS, config_map("watched"))
    event = await asyncio.wait_for(following, 30)
    await api.delete(f"{CONFIG_MAPS}/watched")
    await cast("Any", watch).aclose()

    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "watched")


async def test_an_expired_version_is_gone() -> None:
    """A server that has compacted its history ends the watch by an event."""
    error = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}

    async def expire(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(error) + "\n")

    app = web.Application()
    app.router.add_get(CONFIG_MAPS, expire)
    host = web.AppRunner(app)
    await host.setup()
    port = free_port()
    await web.TCPSite(host, "127.0.0.1", port).start()
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    made = KubeApi(configuration)
    with pytest.raises(GoneError, match="too old"):
        await anext(made.watch(CONFIG_MAPS, "1"))
    await made.close()
    await host.cleanup()


async def test_a_server_that_is_away_is_unreachable(api: KubeApi) -> None:
    """The error can be retried, unlike a rejection."""
    api.host = f"https://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError):
        await api.get("/api/v1/namespaces/default")

    assert not issubclass(UnreachableError, RejectedError)


async def test_a_wrong_token_is_rejected(plane: ControlPlane) -> None:
    """Credentials that the server does not know are refused, which no retry mends."""
    kubeconfig = plane.folder / "wrong-token"
    kubeconfig.write_text(plane.kubeconfig.read_text().replace("test-token", "other-token"))
    made = await connect(str(kubeconfig))
    try:
        with pytest.raises(RejectedError) as caught:
            await made.get("/api/v1/namespaces/default")
    finally:
        await made.close()

    assert caught.value.status == 401
