"""Settings of the memory mission."""

import pytest
from bem_fleet.services.memory.settings import MemorySettings
from pydantic import ValidationError


def test_defaults_are_one_mebibyte_and_a_week() -> None:
    """A session has 1 MiB, lives a week unused, and listens on a unix socket."""
    settings = MemorySettings()

    assert settings.budget_bytes == 2**20
    assert settings.session_ttl_s == 7 * 86_400
    assert settings.address.startswith("unix:")


def test_variables_have_the_missions_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the environment are read and checked."""
    monkeypatch.setenv("BEM_MEMORY_THRESHOLD", "0.25")
    assert MemorySettings().threshold == 0.25
    monkeypatch.setenv("BEM_MEMORY_BUDGET_BYTES", "1")
    with pytest.raises(ValidationError, match="greater than or equal to 65536"):
        MemorySettings()
