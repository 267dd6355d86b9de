"""Access control middleware: what it forwards, and what it leaves behind."""

from pathlib import Path
from typing import Any

import httpx
from bem_fleet.services.gateway.access_control import AccessMiddleware
from bem_fleet.services.gateway.request_context import RequestContextMiddleware
from bem_fleet.services.gateway.route_roles import RouteRoles, requires
from fastapi import FastAPI
from fleet.access import Access, Role, principal
from fleet.access.keys import KeyRing
from fleet.access.own_key import OwnKey
from fleet.clients import outgoing_metadata

from tests.support.access_keys import AccessKeys, write_access_keys


def client(keys: AccessKeys, address: str) -> httpx.AsyncClient:
    """Return a client of an application that shows what calls to missions would carry."""
    app = FastAPI()

    @app.get("/user")
    @requires(Role.USER)
    async def user() -> dict[str, Any]:
        return {"key": principal.get().name, **dict(outgoing_metadata())}

    access, own = Access(KeyRing(keys.file), address), OwnKey(keys.path("service"))
    app.add_middleware(
        AccessMiddleware, access=access, own_key=own, routes=lambda: RouteRoles(app.routes)
    )
    app.add_middleware(RequestContextMiddleware, max_body_bytes=100)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_clients_key_is_forwarded_with_the_gateways(tmp_path: Path) -> None:
    """The service behind decides by the client's key, and sees who has counted its limits."""
    keys = write_access_keys(tmp_path, {"name": "web"})
    async with client(keys, "0.0.0.0:1") as http:
        shown = (await http.get("/user", headers=keys.headers("web"))).json()
        refused = await http.get("/user")

    assert shown["key"] == "web"
    assert shown["authorization"] == keys.headers("web")["authorization"]
    assert shown["bem-forwarded-by"] == keys.headers("service")["authorization"]
    assert refused.status_code == 401


async def test_caller_without_a_key_is_served_by_the_gateways(tmp_path: Path) -> None:
    """A client cannot smuggle a second key in: the gateway forwards what it has checked."""
    keys = write_access_keys(tmp_path)
    headers = {"bem-forwarded-by": keys.headers("service")["authorization"], "bem-tenant": "x"}
    async with client(keys, "127.0.0.1:1") as http:
        shown = (await http.get("/user", headers=headers)).json()

    assert shown["key"] == "anonymous"
    assert shown["authorization"] == keys.headers("service")["authorization"]
    assert not {"bem-forwarded-by", "bem-tenant"} & set(shown)
