"""The application without any service behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings

PAGE = "https://chat.example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
}


@asynccontextmanager
async def gateway(**more: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a gateway whose missions and Redis are away; yield a client of it."""
    settings = GatewaySettings(
        missions={"router": "unix:/nowhere.sock"}, redis_url="unix:///nowhere-redis.sock", **more
    )
    app = make_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway"
        ) as connected,
    ):
        yield connected


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with the default settings."""
    async with gateway() as connected:
        yield connected


async def test_no_web_page_may_call_by_default(client: httpx.AsyncClient) -> None:
    """Without the setting a preflight is refused and no response has CORS headers."""
    preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
    alive = await client.get("/healthz", headers={"Origin": PAGE})

    assert preflight.status_code == 405
    assert not [name for name in (*preflight.headers, *alive.headers) if name.startswith("access-")]


async def test_listed_origins_may_call_and_read_errors() -> None:
    """A preflight names the page; other pages get no permission; errors are readable too."""
    async with gateway(cors_origins=[PAGE], max_body_bytes=1024) as client:
        preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        other = await client.options(
            "/v1/chat/completions", headers={**PREFLIGHT, "Origin": "https://other.example.org"}
        )
        error = await client.post(
            "/v1/chat/completions", json={"x": "y" * 2048}, headers={"Origin": PAGE}
        )

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in other.headers
    assert error.status_code == 413
    assert error.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in error.headers["access-control-expose-headers"]


async def test_process_is_alive_but_not_ready(client: httpx.AsyncClient) -> None:
    """Liveness needs nothing; readiness names what is missing."""
    alive, ready = await client.get("/healthz"), await client.get("/readyz")

    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "RouterService" in ready.json()["error"]["message"]


async def test_unknown_path_and_wrong_method_are_errors_in_openais_format(
    client: httpx.AsyncClient,
) -> None:
    """Every answer but 2xx has the error object."""
    unknown, wrong = await client.get("/v1/nothing"), await client.get("/v1/feedback")

    assert (unknown.status_code, wrong.status_code) == (404, 405)
    assert set(unknown.json()["error"]) == {"message", "type", "param", "code"}


async def test_every_route_is_documented(client: httpx.AsyncClient) -> None:
    """The OpenAPI page lists the completion routes, which skip FastAPI, and the mission routes."""
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert {"/v1/chat/completions", "/v1/missions/{mission}/{method}", "/readyz"} <= set(paths)
