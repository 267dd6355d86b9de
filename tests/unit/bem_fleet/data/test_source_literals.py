"""Literals of source files are read, the files are not run."""

from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.source_literals import read_class_literals, read_literals


def test_literals_are_read_without_running_the_file(tmp_path: Path) -> None:
    """Markers in f-strings stay as names; what is computed is no literal."""
    path = tmp_path / "m.py"
    path.write_text("raise SystemExit\nA = [f'say {X} now', 'b', 'c' * 2]\nB = len('b')\n")

    assert read_literals(path, "A") == [["say <X> now", "b"]]
    with pytest.raises(DataFormatError, match="B"):
        read_literals(path, "B")


def test_classes_are_told_apart(tmp_path: Path) -> None:
    """Each class has its own value, and a name that none assigns is an error."""
    path = tmp_path / "m.py"
    path.write_text("class One:\n    a = [1]\nclass Two:\n    a = [2]\na = [3]\n")

    assert read_class_literals(path, "a") == {"One": [1], "Two": [2]}
    with pytest.raises(DataFormatError, match="b"):
        read_class_literals(path, "b")
