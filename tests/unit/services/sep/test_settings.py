"""Settings of mission sep."""

import pytest
from bem_fleet.services.sep.settings import SepSettings


def test_settings_have_the_missions_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the environment are read with the mission's prefix."""
    monkeypatch.setenv("BEM_SEP_BACKBONE", "tiny")
    monkeypatch.setenv("BEM_SEP_FRONT", "elsewhere")

    assert SepSettings().backbone == "tiny"
    assert SepSettings().front.name == "elsewhere"
    assert SepSettings().address.startswith("unix:")
