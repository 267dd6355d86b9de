"""``fleetctl audit verify``: its key and its errors; valid chains are in tests/integration."""

from pathlib import Path

import pytest
from bem_fleet.cli.audit import keys_from, verify
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
    none = keys_from(None)
    monkeypatch.setenv("BEM_SAFETY_AUDIT_KEY_FILE", str(setting))

    assert (none, keys_from(None), keys_from(option)) == ((), (b"s",), (b"o",))


def test_unreachable_redis_is_named() -> None:
    """The error names the URL without its password."""
    address = f"127.0.0.1:{free_port()}/0"
    with pytest.raises(UnavailableError, match=f"redis://{address}") as caught:
        verify(f"redis://witness:p4ss@{address}", "audit", (), "", None)

    assert "p4ss" not in str(caught.value)


def test_empty_key_file_is_refused(tmp_path: Path) -> None:
    """An empty file would turn the HMAC into a plain hash without a word."""
    (tmp_path / "key").write_text("\n")

    with pytest.raises(UnavailableError, match="is empty"):
        keys_from(tmp_path / "key")
