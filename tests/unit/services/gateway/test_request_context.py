"""Request context middleware."""

from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.errors import HANDLED_ERRORS, error_response
from bem_fleet.services.gateway.request_context import RequestContextMiddleware, session_of
from fastapi import FastAPI, Request
from fleet import logs
from fleet.clients import outgoing_metadata

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
app = FastAPI()
app.add_middleware(RequestContextMiddleware, max_body_bytes=100)
for handled in HANDLED_ERRORS:
    app.add_exception_handler(handled, error_response)


@app.post("/echo")
async def echo(request: Request) -> dict[str, Any]:
    """Return the metadata that calls to missions would carry."""
    await request.body()
    return dict(outgoing_metadata())


def client() -> httpx.AsyncClient:
    """Return a client of the application."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_headers_reach_the_missions() -> None:
    """Request id, trace context and strength become gRPC metadata; no tenant is taken from it."""
    headers = {
        "x-request-id": "r-1",
        "traceparent": TRACE,
        "BEM-Safety-Strength": "0.5",
        "BEM-Tenant": "t",
    }
    async with client() as http:
        answer = await http.post("/echo", headers=headers)

    assert answer.headers["x-request-id"] == "r-1"
    del headers["BEM-Tenant"]
    assert answer.json() == {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("given", ["a b", "jo@example.com", "212-555-0142", "4111111111111111"])
async def test_bad_request_id_is_replaced(given: str) -> None:
    """An id that could break a log line or be someone's number is not adopted."""
    async with client() as http:
        answer = await http.post("/echo", headers={"x-request-id": given, "traceparent": given})

    assert answer.headers["x-request-id"] != given
    assert given not in answer.text


@pytest.mark.parametrize("announced", [True, False])
async def test_large_body_is_413(announced: bool) -> None:
    """The limit holds with and without Content-Length."""

    async def chunks() -> Any:
        for _ in range(11):
            yield b"x" * 10

    async with client() as http:
        answer = await http.post("/echo", content=b"x" * 110 if announced else chunks())

    assert answer.status_code == 413
    assert "100" in answer.json()["error"]["message"]


async def test_header_that_is_no_metadata_is_named() -> None:
    """A strength beyond its length is 400 with the header as param."""
    async with client() as http:
        answer = await http.post("/echo", headers={"BEM-Safety-Strength": "1" * 65})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "bem-safety-strength")


def test_session_is_header_then_user_then_request() -> None:
    """A request without any session is a session of its own."""
    token = logs.request_id.set("r-1")
    sessions = [session_of({"x-session-id": "s"}, "u"), session_of({}, "u"), session_of({})]
    logs.request_id.reset(token)

    assert sessions == ["s", "u", "r-1"]
