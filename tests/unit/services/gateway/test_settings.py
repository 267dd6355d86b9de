"""Settings of the gateway."""

import pytest
from bem_fleet.services.gateway.settings import GatewaySettings
from pydantic import ValidationError


def test_defaults_are_a_router_on_this_machine() -> None:
    """Without any environment the gateway serves the router of the same machine."""
    settings = GatewaySettings()

    assert settings.missions == {"router": "127.0.0.1:50051"}
    assert settings.openai_mission == "router"
    assert settings.fleet_address is None


def test_missions_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment lists missions by name."""
    monkeypatch.setenv("BEM_GATEWAY_MISSIONS", '{"x": "x:1", "memory-b": "unix:/m.sock"}')
    monkeypatch.setenv("BEM_GATEWAY_OPENAI_MISSION", "x")

    assert GatewaySettings().missions == {"x": "x:1", "memory-b": "unix:/m.sock"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"missions": {}}, "missions"),
        ({"missions": {"Router/": "x:1"}}, "Router/"),
        ({"missions": {"router": ""}}, "router"),
        ({"openai_mission": "memory"}, "memory"),
        ({"idle_missions": ["router"]}, "idle_missions: router cannot be without pods"),
        ({"idle_missions": ["other"]}, "idle_missions: other"),
        ({"cors_origins": ["https://x.org/page"]}, "https://x.org/page"),
        ({"cors_origins": ["x.org"]}, "x.org"),
    ],
)
def test_bad_missions_stop_the_start(given: dict[str, object], named: str) -> None:
    """No mission, a name that is no path, no target, and an OpenAI mission that is not listed."""
    with pytest.raises(ValidationError, match=named):
        GatewaySettings.model_validate(given)
