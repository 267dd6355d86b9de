"""Atomic file writes."""

import json
import os
from pathlib import Path

import pytest
from fleet.files import write_atomic, write_json_atomic


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
