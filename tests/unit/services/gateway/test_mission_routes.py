"""Names in mission routes; calls over real sockets are in tests/integration/test_mission_routes."""

from bem_fleet.services.gateway.mission_routes import routes


def test_routes_are_generic() -> None:
    """No mission and no method is named in a path."""
    assert {route.path for route in routes.routes} == {  # type: ignore[attr-defined]
        "/v1/missions",
        "/v1/missions/{mission}",
        "/v1/missions/{mission}/{method}",
    }
