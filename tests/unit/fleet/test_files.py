"""Atomic file writes."""

import json
import os
import stat
from pathlib import Path

import pytest
from fleet.files import (
    make_private_folder,
    make_private_tree,
    private_umask,
    write_atomic,
    write_json_atomic,
)


def test_content_is_replaced_completely(tmp_path: Path) -> None:
    """Text and bytes replace what was there, and no draft is left."""
    path = tmp_path / "file.json"
    write_atomic(path, "a longer text than the next")
    write_atomic(path, b"short")
    write_json_atomic(tmp_path / "value.json", {"a": [1, "é"]})

    assert path.read_bytes() == b"short"
    assert json.loads((tmp_path / "value.json").read_text()) == {"a": [1, "é"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.json", "value.json"]


def test_a_crash_before_the_rename_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader never sees a part of the new content."""
    path = tmp_path / "file"
    write_atomic(path, "old")

    def crash(_descriptor: int) -> None:
        raise OSError("power is gone")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="power"):
        write_atomic(path, "new")

    assert path.read_text() == "old"


def mode(path: Path) -> int:
    """Return the permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def test_tree_is_closed_to_others(tmp_path: Path) -> None:
    """What an older version left open is closed; what a link leads to is not touched."""
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "logs" / "a.log").write_text("x")
    (tmp_path / "outside").write_text("x")
    (tmp_path / "outside").chmod(0o644)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "outside")
    make_private_tree(tmp_path / "run")
    with private_umask():
        (tmp_path / "run" / "new").write_text("x")

    assert mode(tmp_path / "run") == mode(tmp_path / "run" / "logs") == 0o700
    assert mode(tmp_path / "run" / "logs" / "a.log") == mode(tmp_path / "run" / "new") == 0o600
    assert mode(tmp_path / "outside") == 0o644


def test_folder_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    """A link, a folder that all users share, and a file are no private folders."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (shared, tmp_path / "link", Path("/")):
        with pytest.raises(PermissionError, match="choose"):
            make_private_folder(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")

    assert mode(shared) == 0o1777
