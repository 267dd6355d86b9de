"""Defaults of the safety sidecar's settings."""

import pytest
from bem_fleet.services.safety.settings import SafetySettings
from pydantic import ValidationError


def test_defaults_are_as_documented() -> None:
    """A sidecar starts its own scorers and accepts no operator unless told otherwise."""
    settings = SafetySettings()

    assert settings.scorer_socket is None
    assert settings.operator_key_sha256 == ""
    assert settings.audit_stream == "bem:audit"
    assert (settings.window_chars, settings.stride_chars, settings.context_chars) == (64, 16, 512)


def test_operator_key_must_be_a_digest() -> None:
    """A plain key in place of its SHA-256 is rejected."""
    with pytest.raises(ValidationError):
        SafetySettings(operator_key_sha256="secret")
