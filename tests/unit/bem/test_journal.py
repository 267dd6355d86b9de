"""Tests of the append-only journal: rows that survive a killed writer."""

from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem.journal import Journal


def test_partial_line_is_cut_off(tmp_path: Path) -> None:
    """The unfinished line is removed, all rows before it stay, and writing continues."""
    path = tmp_path / "folder" / "rows.jsonl"
    Journal(path).add({"n": 1}, {"n": 2})
    with path.open("a") as file:
        file.write('{"n": 3')
    opened = Journal(path)
    opened.add({"n": 4})

    assert list(opened.rows()) == [{"n": 1}, {"n": 2}]
    assert list(Journal(path).rows()) == [{"n": 1}, {"n": 2}, {"n": 4}]


@pytest.mark.parametrize("line", ["not json", "[1]"])
def test_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    """A crash cannot produce a malformed line in the middle: it is an error with its number."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 3}}\n')
    with pytest.raises(DataFormatError, match=r"rows\.jsonl:2"):
        list(Journal(path).rows())
