"""Keys file: validation, look-up, rotation and a file that breaks while it is served."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet.access.keys import VALID, KeyRing, KeysFileError, key_digest, new_key, read_keys
from fleet.access.principal import Limits, Role


def write(path: Path, *keys: dict[str, Any], **more: Any) -> Path:
    """Write a keys file and return its path."""
    path.write_text(yaml.safe_dump({"version": 1, "keys": list(keys), **more}))
    return path


def entry(name: str, key: str, role: str = "user", **more: Any) -> dict[str, Any]:
    """Return the entry of a key."""
    return {"name": name, "role": role, "sha256": key_digest(key), **more}


def test_key_has_256_random_bits() -> None:
    """Two keys differ, and each has 43 characters of base64 after its prefix."""
    keys = {new_key() for _ in range(50)}

    assert len(keys) == 50
    assert {len(key) for key in keys} == {len("bem_") + 43}


def test_known_key_is_its_principal(tmp_path: Path) -> None:
    """Name, role, tenant and limits are those of the entry."""
    key = new_key()
    limits = {"requests_per_minute": 5}
    file = write(tmp_path / "k", entry("web", key, tenant="acme", limits=limits))
    found = KeyRing(file).find(key)

    assert found
    assert (found.name, found.role, found.tenant) == ("web", Role.USER, "acme")
    assert found.limits == Limits(requests_per_minute=5)
    assert KeyRing(file).find(key[:-1]) is None
    assert KeyRing(file).find(key_digest(key)) is None


def test_only_user_keys_have_the_files_limits(tmp_path: Path) -> None:
    """Services and operators are not limited unless their entry says so."""
    user, operator = new_key(), new_key()
    rows = (entry("u", user), entry("o", operator, "operator"))
    ring = KeyRing(write(tmp_path / "k", *rows, limits={"concurrent": 2}))
    found = [ring.find(key) for key in (user, operator)]

    assert [one.limits.concurrent for one in found if one] == [2, None]


def test_expired_key_is_unknown(tmp_path: Path) -> None:
    """A key is refused from its time of expiry on."""
    old, new = new_key(), new_key()
    now = datetime.now(UTC)
    rows = (
        entry("old", old, expires=(now - timedelta(seconds=1)).isoformat()),
        entry("new", new, expires=(now + timedelta(hours=1)).isoformat()),
    )
    ring = KeyRing(write(tmp_path / "k", *rows))

    assert ring.find(old) is None
    assert ring.find(new)


def test_rotation_needs_no_restart(tmp_path: Path) -> None:
    """Both secrets are valid while both hashes are listed, then only the new one."""
    old, new = new_key(), new_key()
    file = write(tmp_path / "k", entry("web", old))
    ring = KeyRing(file, interval_s=0)
    assert ring.find(new) is None
    write(file, {"name": "web", "role": "user", "sha256": [key_digest(new), key_digest(old)]})
    assert ring.find(old)
    assert ring.find(new)
    write(file, entry("web", new))

    assert ring.find(old) is None
    assert ring.find(new)


@pytest.mark.parametrize("content", ["keys: [", "keys: 3", "a: b", "\xff", "[]", "", None])
def test_broken_file_keeps_the_last_keys(tmp_path: Path, content: str | None) -> None:
    """The metric shows it, and the next valid file is applied."""
    key, other = new_key(), new_key()
    file = write(tmp_path / "k", entry("web", key))
    ring = KeyRing(file, interval_s=0)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode("latin-1"))
    assert ring.find(key)
    assert VALID.labels(file)._value.get() == 0
    write(file, entry("web", other))

    assert ring.find(key) is None
    assert ring.find(other)
    assert VALID.labels(file)._value.get() == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a", "role": "admin", "sha256": "0" * 64}], "role"),
        ([{"name": "a", "role": "user", "sha256": "plain-text-key"}], "sha256"),
        ([{"name": "A b", "role": "user", "sha256": "0" * 64}], "name"),
        ([{"name": "a", "role": "user"}], "sha256"),
        ([entry("a", "x"), entry("a", "y")], "occurs twice"),
        ([entry("a", "x"), entry("b", "x")], "occurs twice"),
        ([entry("a", "x", limits={"concurrent": 0})], "concurrent"),
        ([entry("a", "x", limit=3)], "limit"),
    ],
)
def test_wrong_entry_is_refused_by_field(tmp_path: Path, rows: Any, message: str) -> None:
    """A server does not start with a wrong file; the error names the field."""
    file = write(tmp_path / "k", *rows)
    with pytest.raises(KeysFileError, match=message):
        read_keys(file)
    with pytest.raises(KeysFileError):
        KeyRing(file)


def test_missing_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    """No server may run without the keys that its settings name."""
    with pytest.raises(KeysFileError, match="name a readable file"):
        KeyRing(tmp_path / "none")
