"""A process's own key."""

from pathlib import Path

from fleet.access.own_key import OwnKey, bearer


def test_key_is_read_again_after_a_rotation(tmp_path: Path) -> None:
    """While the file is being swapped the last key stays."""
    file = tmp_path / "service.key"
    file.write_text("one\n")
    own = OwnKey(file, interval_s=0)
    first = own.metadata()
    file.unlink()
    between = own.metadata()
    file.write_text("two\n")

    assert first == between == (("authorization", "Bearer one"),)
    assert own.header == "Bearer two"


def test_without_a_file_there_is_no_metadata() -> None:
    """An empty header is never sent."""
    assert OwnKey(None).metadata() == ()
    assert bearer("") == ""
