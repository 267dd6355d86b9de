"""Access control middleware: key, role of the route, and limits by key, before a body is read."""

from collections.abc import Callable

from bem_fleet.services.gateway.errors import from_fleet
from bem_fleet.services.gateway.route_roles import RouteRoles
from fleet import wire
from fleet.access import Access, Limiter, Principal, Role, admission, principal
from fleet.access.own_key import OwnKey
from fleet.clients import forwarded_metadata
from fleet.errors import FleetError
from starlette.types import ASGIApp, Receive, Scope, Send


class AccessMiddleware:
    """ASGI middleware that admits requests; it runs within the request context.

    Calls to missions and services carry the client's own key, so that they decide by the same keys,
    and the gateway's key beside it: the limits of the client's key have been applied here.

    Args:
        app: Application that serves admitted requests.
        access: Keys and rules of the listener.
        own_key: Key of the gateway.
        routes: Returns the roles of the routes; called at the first request.
    """

    def __init__(
        self, app: ASGIApp, access: Access, own_key: OwnKey, routes: Callable[[], RouteRoles]
    ) -> None:
        self._app, self._access, self._own_key = app, access, own_key
        self._make_routes = routes
        self._routes: RouteRoles | None = None
        self._limiter = Limiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._routes is None:
            self._routes = self._make_routes()
        route = self._routes.find(scope["method"], scope["path"])
        if route is None or route.role is Role.OPEN:  # an unknown route is 404 for everybody
            await self._app(scope, receive, send)
            return
        authorization = _authorization(scope)
        try:
            caller = self._access.identify(authorization)
            self._access.require(caller, route.role, f"{scope['method']} {scope['path']}")
            admitted = self._limiter.admit(caller)
        except FleetError as err:
            await from_fleet(err).response()(scope, receive, send)
            return
        principal.set(caller)
        admission.set(admitted)
        self._forward(caller, authorization)
        try:
            await self._app(scope, receive, send)
        finally:
            admitted.release()

    def _forward(self, caller: Principal, authorization: str | None) -> None:
        """Add the keys that calls to missions and services carry."""
        own = self._own_key.header
        carried: tuple[tuple[str, str], ...] = ((wire.AUTHORIZATION, own),)
        if caller.has_key:
            carried = ((wire.AUTHORIZATION, authorization or ""), (wire.FORWARDED_BY, own))
        forwarded_metadata.set((*forwarded_metadata.get(), *carried))


def require_role(access: Access, role: Role, subject: str) -> None:
    """Check the role of the caller of the request being served.

    Raises:
        ApiError: The caller's role is too small.
    """
    try:
        access.require(principal.get(), role, subject)
    except FleetError as err:
        raise from_fleet(err) from err


def _authorization(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value.decode("latin-1"))
    return None
