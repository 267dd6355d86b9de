"""Roles of the gateway's routes."""

from bem_fleet.services.gateway.app import make_app
from bem_fleet.services.gateway.route_roles import RouteRole, RouteRoles, listed_routes, requires
from bem_fleet.services.gateway.settings import GatewaySettings
from fastapi import APIRouter, FastAPI
from fleet.access import Role


def application() -> FastAPI:
    """Return an application with a nested router, as the gateway's completions are."""
    outer, inner = APIRouter(prefix="/v1"), APIRouter()

    @inner.post("/things/{name}")
    @requires(Role.USER, of_method=True)
    async def make(name: str) -> str:
        return name

    @outer.get("/forgotten")
    async def forgotten() -> None:
        """Declare nothing."""

    outer.include_router(inner)
    app = FastAPI()
    app.include_router(outer)
    return app


def test_role_is_found_by_method_and_path() -> None:
    """A route without a declaration is an operator's; what no route serves has no role."""
    roles = RouteRoles(application().routes)

    assert roles.find("POST", "/v1/things/a") == RouteRole(Role.USER, of_method=True)
    assert roles.find("GET", "/v1/forgotten") == RouteRole(Role.OPERATOR)
    assert roles.find("GET", "/v1/things/a") is None
    assert roles.find("POST", "/v1/things/a/b") is None
    assert roles.find("GET", "/docs") == RouteRole(Role.OPEN)


def test_every_route_of_the_gateway_declares_its_role() -> None:
    """The endpoints under /v1 are never open, and none has forgotten its declaration."""
    listed = list(listed_routes(make_app(GatewaySettings()).routes))
    operators = {path for _, path, role in listed if role.role is Role.OPERATOR}

    assert len(listed) > 10
    assert all(role.role > Role.OPEN for _, path, role in listed if path.startswith("/v1"))
    assert {path for path in operators if not path.startswith("/v1/validation/")} == {
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/fleet/canaries/{mission}",
        "/v1/fleet/canaries/{mission}/{command}",
        "/v1/fleet/safety/{mission}",
    }
