"""Defaults of the safety sidecar's settings."""

from bem_fleet.services.safety.settings import SafetySettings


def test_defaults_are_as_documented() -> None:
    """A sidecar starts its own scorers and accepts no operator unless told otherwise."""
    settings = SafetySettings()

    assert settings.scorer_socket is None
    assert settings.keys_file is None
    assert settings.audit_stream == "bem:audit"
    assert (settings.window_chars, settings.stride_chars, settings.context_chars) == (64, 16, 512)
