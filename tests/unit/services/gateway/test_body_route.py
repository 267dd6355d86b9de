"""Routes for JSON bodies, called without FastAPI's routing."""

from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.body_route import (
    JsonBodyDispatcher,
    JsonBodyRoute,
    ParameterRoute,
    require_json,
)
from bem_fleet.services.gateway.errors import ApiError, error_response
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel


class Sample(BaseModel):
    """A body with one field."""

    number: int


router = APIRouter(route_class=JsonBodyRoute)


@router.post("/double")
async def double(request: Request, body: Sample) -> Response:  # noqa: ARG001
    """Return twice the number."""
    return JSONResponse({"number": 2 * body.number})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything else with 418."""
    await Response(status_code=418)(scope, receive, send)


def client() -> httpx.AsyncClient:
    """Return a client of the dispatcher."""
    app = JsonBodyDispatcher(application, router.routes, "/v1")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_only_posts_to_the_exact_path_are_dispatched() -> None:
    """Other methods and paths go to the application."""
    async with client() as http:
        answer = await http.post("/v1/double", json={"number": 4})
        others = [await http.get("/v1/double"), await http.post("/v1/double/", json={})]

    assert answer.json() == {"number": 8}
    assert [other.status_code for other in others] == [418, 418]


@pytest.mark.parametrize(
    ("content", "param", "text"),
    [
        ("{bad", None, "valid JSON"),
        ('{"number": "x"}', "number", "integer"),
        ("[" * 100_000, None, "valid JSON"),
        ('{"number": 1, "a": [{"b": "\\ud800"}]}', "a.0.b", "lone surrogate"),
        ('{"number": 1, "a": {"\\udfff": 1}}', "a", "lone surrogate"),
        ('"\\uD9aB"', None, "lone surrogate"),
        ('{"number": "\ud800"}'.encode(errors="surrogatepass"), "number", "lone surrogate"),
    ],
)
async def test_bad_body_is_named(content: str | bytes, param: str | None, text: str) -> None:
    """Broken JSON, a wrong value and endless nesting are 400 in OpenAI's format."""
    headers = {"Content-Type": "application/json"}
    async with client() as http:
        answer = await http.post("/v1/double", content=content, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize("given", ["application/json", "application/json; charset=utf-8", "a/b"])
def test_only_json_is_accepted(given: str) -> None:
    """Parameters of the content type do not matter; another type is 415."""
    if given.startswith("application/json"):
        require_json(given)
        return
    with pytest.raises(ApiError) as caught:
        require_json(given)
    assert caught.value.status == 415


async def test_bodies_of_routes_with_parameters_are_checked_too() -> None:
    """FastAPI parses what passes, and refuses what is not JSON."""
    routes = APIRouter(route_class=ParameterRoute)

    @routes.post("/{name}")
    async def keep(name: str, body: dict[str, Any]) -> Response:
        return JSONResponse({name: body})

    app = FastAPI(exception_handlers={ApiError: error_response})
    app.include_router(routes)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        http.headers["Content-Type"] = "application/json"
        kept = await http.post("/x", content='{"a": "\\ud83d\\ude00"}')
        lone = await http.post("/x", content='{"a": ["\\ud83d"]}')
        broken = await http.post("/x", content="{")

    assert kept.json() == {"x": {"a": "\U0001f600"}}
    assert (lone.status_code, lone.json()["error"]["param"]) == (400, "a.0")
    assert broken.status_code == 422
