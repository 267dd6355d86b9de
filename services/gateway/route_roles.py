"""Roles of the gateway's HTTP routes, declared at each endpoint by a decorator.

A route without a declaration needs an operator's key, so that a forgotten one is never open.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi.routing import RouteContext, iter_route_contexts
from fleet.access import Role
from starlette.routing import BaseRoute, compile_path

_ATTRIBUTE = "__bem_role__"
_DOCUMENTATION = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class RouteRole:
    """Role that a route needs.

    Attributes:
        role: Smallest role that may call the route.
        of_method: Whether the route calls a method that the request names; ``role`` is then the
            least, and the endpoint requires the role of the method.
    """

    role: Role
    of_method: bool = False


def requires(role: Role, *, of_method: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that declares the role of an endpoint."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, RouteRole(role, of_method))
        return endpoint

    return declare


def declared_role(route: RouteContext) -> RouteRole:
    """Return the role of a route; an operator's if it declares none."""
    if route.path in _DOCUMENTATION:
        return RouteRole(Role.OPEN)
    role: RouteRole = getattr(route.endpoint, _ATTRIBUTE, RouteRole(Role.OPERATOR))
    return role


def listed_routes(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str, RouteRole]]:
    """Yield HTTP method, path and role of each route, sorted by path."""
    rows = [
        (method, route.path or "", declared_role(route))
        for route in iter_route_contexts(routes)
        for method in (route.methods or set()) - {"HEAD"}
    ]
    yield from sorted(rows, key=lambda row: (row[1], row[0]))


class RouteRoles:
    """Finds the role of a request among the routes of an application.

    Args:
        routes: Routes of the application.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._exact: dict[tuple[str, str], RouteRole] = {}
        self._patterns: list[tuple[set[str], re.Pattern[str], RouteRole]] = []
        for route in iter_route_contexts(routes):
            path, methods = route.path or "", route.methods or set()
            if "{" in path:
                self._patterns.append((methods, compile_path(path)[0], declared_role(route)))
            for method in methods:
                self._exact.setdefault((method, path), declared_role(route))

    def find(self, method: str, path: str) -> RouteRole | None:
        """Return the role of a request's route; None if no route serves it."""
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact
        for methods, pattern, role in self._patterns:
            if method in methods and pattern.match(path):
                return role
        return None
