"""Promised defaults and refusals of the common settings."""

import pytest
from fleet.settings import FleetSettings, TlsMode, unknown_variables_of, variable_names
from pydantic import ValidationError


class SampleSettings(FleetSettings, env_prefix="BEM_SAMPLE_"):
    """A service's settings."""


def test_defaults_are_as_documented() -> None:
    """A service without any environment is reachable from its own machine only."""
    settings = SampleSettings()

    assert settings.address == "127.0.0.1:50051"
    assert settings.metrics_address is None
    assert settings.drain_s == 30
    assert settings.max_message_bytes == 4 * 1024 * 1024
    assert settings.reflection
    assert settings.tls_mode is TlsMode.OFF
    assert settings.health_address is None


@pytest.mark.parametrize("mode", ["server", "mutual"])
def test_tls_needs_a_certificate(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A process that should have TLS never starts in plain."""
    monkeypatch.setenv("BEM_SAMPLE_TLS_MODE", mode)
    with pytest.raises(ValidationError, match=f"tls_folder: missing; tls_mode {mode}"):
        SampleSettings()
    monkeypatch.setenv("BEM_SAMPLE_TLS_FOLDER", "/run/pod-tls")

    assert SampleSettings().tls_mode is TlsMode(mode)


def test_environment_with_prefix_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is read from the service's own prefix."""
    monkeypatch.setenv("BEM_SAMPLE_DRAIN_S", "3")
    monkeypatch.setenv("BEM_OTHER_DRAIN_S", "9")

    assert SampleSettings().drain_s == 3


def test_value_out_of_range_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value stops the start and is named."""
    monkeypatch.setenv("BEM_SAMPLE_LOG_LEVEL", "LOUD")

    with pytest.raises(ValidationError, match="log_level"):
        SampleSettings()


def test_unknown_variables_are_named_with_the_nearest() -> None:
    """A misspelt name, an invented one and a misspelt service; other services' are not reported."""
    environment = [
        "BEM_SAMPLE_DRAIN_S",
        "BEM_SAMPLE_DRAINS",
        "BEM_SAMPLE_LOGLEVEL",
        "BEM_SAMPEL_REDIS_URL",
        "BEM_SAMPLE_",
        "BEM_OTHER_DRAIN_S",
        "SAMPLE_DRAIN_S",
        "PATH",
    ]
    found = unknown_variables_of(environment, SampleSettings)

    assert found == {
        "BEM_SAMPEL_REDIS_URL": "BEM_SAMPLE_REDIS_URL",
        "BEM_SAMPLE_": found["BEM_SAMPLE_"],
        "BEM_SAMPLE_DRAINS": "BEM_SAMPLE_DRAIN_S",
        "BEM_SAMPLE_LOGLEVEL": "BEM_SAMPLE_LOG_LEVEL",
    }
    assert unknown_variables_of(["BEM_SAMPLE_ADDRESS"], SampleSettings) == {}
    assert unknown_variables_of(environment, FleetSettings) == {}


def test_names_of_variables_have_the_prefix() -> None:
    """Every field of the class and its bases is read from one variable."""
    names = variable_names(SampleSettings)

    assert "BEM_SAMPLE_MAX_MESSAGE_BYTES" in names
    assert len(names) == len(SampleSettings.model_fields)
