"""The application without any service behind it."""

from collections.abc import AsyncIterator

import httpx
import pytest
from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.settings import GatewaySettings


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose missions and Redis are away."""
    settings = GatewaySettings(
        missions={"router": "unix:/nowhere.sock"}, redis_url="unix:///nowhere-redis.sock"
    )
    app = make_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway"
        ) as connected,
    ):
        yield connected


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
