"""Defaults of the safety sidecar's settings."""

from pathlib import Path
from typing import Any

import pytest
from bem_fleet.services.safety.settings import SafetySettings
from pydantic import ValidationError


def test_defaults_are_as_documented() -> None:
    """A sidecar starts its own scorers and accepts no operator unless told otherwise."""
    settings = SafetySettings()

    assert settings.scorer_socket is None
    assert settings.keys_file is None
    assert settings.audit_stream == "bem:audit"
    assert (settings.window_chars, settings.stride_chars, settings.context_chars) == (64, 16, 512)


def test_tls_leaves_no_mission_at_a_plain_port(tmp_path: Path) -> None:
    """A sidecar that shows a certificate does not carry texts in plain behind it."""
    tls: dict[str, Any] = {"tls_mode": "mutual", "tls_folder": tmp_path}

    assert SafetySettings(upstream="unix:/run/bem/mission.sock", **tls)
    with pytest.raises(ValidationError, match="upstream: 'mission:50051' is a port without TLS"):
        SafetySettings(upstream="mission:50051", **tls)
