"""Passwords and keys of the local fleet."""

import stat
from pathlib import Path

from bem_fleet.cli.local.credentials import Credentials


def test_credentials_are_random_private_and_kept(tmp_path: Path) -> None:
    """A second start finds the same ones; a removed one is made anew, an empty one too."""
    made = Credentials(tmp_path)
    made.ensure(["gateway", "safety"], ["audit"])
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    made.ensure(["gateway", "safety"], ["audit"])
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / "redis-gateway").unlink()
    (tmp_path / "redis-safety").write_text("")
    made.ensure(["gateway", "safety"], ["audit"])

    assert set(first) == {"redis-gateway", "redis-safety", "audit.key"}
    assert len(set(first.values())) == 3
    assert all(len(text.strip()) == 64 for text in first.values())
    assert kept == first
    assert made.redis_password("gateway") not in ("", first["redis-gateway"].strip())
    assert made.redis_password("safety") not in ("", first["redis-safety"].strip())
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_password_before_the_first_start_is_empty(tmp_path: Path) -> None:
    """The status command works before there is anything."""
    assert Credentials(tmp_path / "none").redis_password("gateway") == ""


def test_acl_has_every_user(tmp_path: Path) -> None:
    """The file for Redis names each user and no password."""
    made = Credentials(tmp_path)
    made.ensure(["gateway"], [])
    text = made.redis_acl({"gateway": "+ping"})

    assert text.splitlines()[1].startswith("user gateway on #")
    assert made.redis_password("gateway") not in text
