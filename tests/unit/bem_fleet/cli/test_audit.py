"""``fleetctl audit verify``: its key and its errors; valid chains are in tests/integration."""

from pathlib import Path

import pytest
from bem_fleet.cli.audit import key_from, verify
from fleet.errors import UnavailableError
from fleet.testing import free_port


def test_key_comes_from_the_option_or_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option wins; without either the chain has no key."""
    option, setting = tmp_path / "option", tmp_path / "setting"
    option.write_text("o\n")
    setting.write_text("s\n")
    monkeypatch.delenv("BEM_SAFETY_AUDIT_KEY_FILE", raising=False)
    none = key_from(None)
    monkeypatch.setenv("BEM_SAFETY_AUDIT_KEY_FILE", str(setting))

    assert (none, key_from(None), key_from(option)) == (b"", b"s", b"o")


def test_unreachable_redis_is_named() -> None:
    """The error names the URL."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(UnavailableError, match=url):
        verify(url, "audit", b"", "")
