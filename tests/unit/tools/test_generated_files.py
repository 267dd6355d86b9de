"""Writing and checking of generated files."""

from pathlib import Path

import pytest

from tools.generated_files import write_or_check


def test_check_names_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Writing makes a check pass; a changed or a missing file fails it and is not written."""
    file = tmp_path / "folder" / "table.md"
    monkeypatch.setattr("sys.argv", ["generator"])
    written = write_or_check({file: "a"}, "make tables")
    monkeypatch.setattr("sys.argv", ["generator", "--check"])

    assert (written, write_or_check({file: "a"}, "make tables")) == (0, 0)
    assert write_or_check({file: "b", tmp_path / "other": "c"}, "make tables") == 1
    assert "table.md: not up to date; run `make tables`" in capsys.readouterr().err
    assert file.read_text() == "a"
