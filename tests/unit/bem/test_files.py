"""Atomic file writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bem.files import write_atomic


def test_content_is_written_whole_or_in_parts(tmp_path: Path) -> None:
    """Bytes and parts of bytes give the same file, in a folder made on the way."""
    whole, parts = tmp_path / "new" / "whole", tmp_path / "new" / "parts"

    write_atomic(whole, b"one two")
    write_atomic(parts, iter([b"one", b" two"]))

    assert whole.read_bytes() == parts.read_bytes() == b"one two"


def test_failed_write_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    """An error halfway leaves the old content, and nothing else in the folder."""

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    path = tmp_path / "file"
    write_atomic(path, b"old")

    with pytest.raises(ValueError, match="no more"):
        write_atomic(path, broken())

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
