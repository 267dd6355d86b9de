"""Low-overhead routes for JSON bodies, which skip FastAPI's dependency injection and routing.

FastAPI's general path costs more than the gateway's own work on a completion: 0.2 ms to solve two
parameters, and more for matching every route and two layers of exception handling.
"""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, get_type_hints

from bem_fleet.services.gateway.errors import HANDLED_ERRORS, ApiError, error_response
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request, BaseModel], Awaitable[Response]]
# An escape of half a pair, or half a pair itself; most bodies have neither.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_LONE = re.compile(r"[\ud800-\udfff]")


def parse_body(raw: bytes) -> Any:
    """Return the value of a JSON body.

    Raises:
        ValueError: The body is not valid JSON.
        RecursionError: It is nested too deeply.
        ApiError: A text or a name has a lone surrogate, which JSON can express and UTF-8 cannot.
    """
    # Not pydantic's own parser: it reports a lone surrogate as broken JSON.
    text = _decode(raw)
    value = json.loads(text)
    if _SURROGATE.search(text) and (path := _lone_surrogate(value)) is not None:
        param = ".".join(path) or None
        raise ApiError(
            400,
            f"{param or 'body'}: not valid Unicode text; it has a lone surrogate; remove it",
            code="invalid_value",
            param=param,
        )
    return value


def _decode(raw: bytes) -> str:
    return raw.decode(json.detect_encoding(raw), "surrogatepass")


def _lone_surrogate(value: Any) -> list[str] | None:
    """Return the path of the first text or name with a lone surrogate; a name's is its object's."""
    rest: list[tuple[list[str], Any]] = [([], value)]
    while rest:
        path, one = rest.pop()
        if isinstance(one, str) and _LONE.search(one):
            return path
        if isinstance(one, dict):
            if any(_LONE.search(name) for name in one):
                return path
            rest += [([*path, name], inner) for name, inner in reversed(one.items())]
        if isinstance(one, list):
            rest += [([*path, str(at)], inner) for at, inner in reversed(list(enumerate(one)))]
    return None


class JsonBodyRoute(APIRoute):
    """Route that calls ``endpoint(request, body)``; the OpenAPI page lists it as any other."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which parses the body into the model that ``body`` is typed as."""
        endpoint: Endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            require_json(request.headers.get("content-type", ""))
            raw, value = await request.body(), None
            try:
                value = parse_body(raw)
                body = model.model_validate(value)
            except ValidationError as err:
                raise RequestValidationError(err.errors(), body=value) from err
            except (ValueError, RecursionError) as err:
                message = "the body is not valid JSON"
                raise ApiError(400, message, code="invalid_json") from err
            return await endpoint(request, body)

        return handle


class ParameterRoute(APIRoute):
    """Route that FastAPI calls with its other parameters, after the same checks of the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the checks; what is not JSON is left to it."""
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            raw = await request.body()
            with suppress(ValueError, RecursionError):
                if _SURROGATE.search(_decode(raw)):  # the others are parsed once, by FastAPI
                    parse_body(raw)
            return await handle(request)

        return check_and_handle


class JsonBodyDispatcher:
    """ASGI middleware that calls JSON body routes by their exact path, before FastAPI routes.

    Args:
        app: Application for every other request.
        routes: Routes; the POST routes of class ``JsonBodyRoute`` among them are called directly.
        prefix: Prefix of the paths of ``routes``.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], prefix: str) -> None:
        self._app = app
        self._handlers = {
            prefix + route.path: (route, route.get_route_handler())
            for route in routes
            if isinstance(route, JsonBodyRoute) and route.methods == {"POST"}
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        matched = self._handlers.get(scope.get("path", "")) if scope["type"] == "http" else None
        if matched is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"], handle = matched
        scope["route_path"] = scope["path"]  # the route's own path lacks the prefix
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
        except HANDLED_ERRORS as err:
            response = await error_response(request, err)
        await response(scope, receive, send)


def require_json(content_type: str) -> None:
    """Reject other content types: a web page may send them across origins without CORS preflight.

    Raises:
        ApiError: The content type is not JSON.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise ApiError(
            415,
            f"content-type: {kind or 'missing'}; it must be application/json; set the header",
            code="unsupported_media_type",
        )
