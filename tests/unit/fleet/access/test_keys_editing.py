"""Editing of keys files."""

from pathlib import Path

import pytest
from fleet.access.keys import KeyEntry, KeyRing, KeysFile, key_digest, new_key, read_keys
from fleet.access.keys_editing import (
    read_or_empty,
    retired,
    rotated,
    with_key,
    without_key,
    write_keys,
    write_private,
)
from fleet.errors import InvalidArgumentError, NotFoundError


def entry(name: str, key: str) -> KeyEntry:
    """Return a user's entry."""
    return KeyEntry.model_validate({"name": name, "role": "user", "sha256": key_digest(key)})


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else may read them, also if a draft of a killed process lies there."""
    file = tmp_path / "operator.key"
    (tmp_path / "operator.key.draft").write_text("old")
    (tmp_path / "operator.key.draft").chmod(0o666)
    write_private(file, "secret")

    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == "secret"


def test_written_file_is_read_back(tmp_path: Path) -> None:
    """Every field survives; a file that does not exist is empty."""
    path = tmp_path / "keys.yaml"
    assert read_or_empty(path) == KeysFile()
    file = with_key(read_or_empty(path), entry("web", "x"))
    write_keys(path, file)

    assert read_keys(path) == file


def test_rotation_keeps_the_newest_old_secret(tmp_path: Path) -> None:
    """After two rotations only the last two secrets are valid; after retiring only the last."""
    path, first = tmp_path / "keys.yaml", new_key()
    file, second = rotated(with_key(KeysFile(), entry("web", first)), "web")
    file, third = rotated(file, "web")
    write_keys(path, file)
    ring = KeyRing(path)

    assert [bool(ring.find(key)) for key in (first, second, third)] == [False, True, True]
    write_keys(path, retired(file, "web"))
    ring = KeyRing(path)
    assert [bool(ring.find(key)) for key in (first, second, third)] == [False, False, True]


def test_unknown_and_doubled_keys_are_refused() -> None:
    """The error names what exists."""
    file = with_key(KeysFile(), entry("web", "x"))
    with pytest.raises(NotFoundError, match="keys: web"):
        without_key(file, "other")
    with pytest.raises(InvalidArgumentError, match="occurs twice"):
        with_key(file, entry("copy", "x"))

    assert without_key(file, "web").keys == ()
