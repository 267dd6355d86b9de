"""Routes for JSON bodies, called without FastAPI's routing."""

from typing import Any

import httpx
import pytest
from bem_fleet.services.gateway.body_route import JsonBodyDispatcher, JsonBodyRoute, require_json
from bem_fleet.services.gateway.errors import ApiError
from fastapi import APIRouter, Request
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
    ],
)
async def test_bad_body_is_named(content: str, param: str | None, text: str) -> None:
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
