"""Promised defaults of the validation service."""

import pytest
from bem_fleet.services.validation.settings import ValidationSettings
from pydantic import ValidationError


def test_defaults_are_as_documented() -> None:
    """Loopback on its own port, the design's error rate and resamples."""
    settings = ValidationSettings()

    assert settings.address == "127.0.0.1:50091"
    assert (settings.alpha, settings.resamples) == (0.05, 10_000)
    assert (settings.max_scores, settings.workers, settings.max_queued) == (400_000, 1, 15)
    assert settings.claims_stream == "bem:claims"
    assert settings.gates.is_file()


def test_rate_outside_its_range_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false discovery rate is between 0 and 1."""
    monkeypatch.setenv("BEM_VALIDATION_ALPHA", "1")

    with pytest.raises(ValidationError, match="alpha"):
        ValidationSettings()
