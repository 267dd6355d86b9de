"""File of the audit chain's anchors."""

import json
from pathlib import Path

import pytest
from fleet import audit_anchor
from fleet.audit_anchor import Anchor, AnchorFile, AnchorFileError

KEYS = (b"secret",)


def anchors(count: int) -> list[Anchor]:
    """Return anchors of a growing chain."""
    return [Anchor(), *(Anchor(n, f"{n:064x}", f"{n}-0") for n in range(1, count))]


def write(path: Path, count: int, keys: tuple[bytes, ...] = KEYS) -> AnchorFile:
    """Write a file with some anchors."""
    made = AnchorFile(path, keys)
    made.create()
    for anchor in anchors(count)[1:]:
        made.append(anchor)
    return made


def test_anchors_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Another process finds all of them and goes on; the file is private."""
    path = tmp_path / "anchor"
    write(path, 3)
    other = AnchorFile(path, KEYS)
    other.create()
    assert other.last() == anchors(3)[-1]
    other.append(anchors(4)[-1])

    assert AnchorFile(path, KEYS).read() == anchors(4)
    assert anchors(2)[1].head == f"1:{1:064x}"
    assert Anchor().head == ""
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("torn", [b"x", b'{"seq": 3, "hash": "ab', b'{"seq": 3}'])
def test_line_that_a_crash_cut_off_is_replaced(tmp_path: Path, torn: bytes) -> None:
    """A line without its end was never acknowledged: it is no edit."""
    path = tmp_path / "anchor"
    write(path, 3)
    with path.open("ab") as stream:
        stream.write(torn)
    again = AnchorFile(path, KEYS)
    again.create()

    assert again.read() == anchors(3)
    again.append(anchors(4)[-1])
    assert AnchorFile(path, KEYS).read() == anchors(4)


def test_a_crash_before_the_first_line_begins_again(tmp_path: Path) -> None:
    """An empty file, or one with half a line, gets its first anchor."""
    for content in (b"", b'{"seq"'):
        path = tmp_path / f"anchor{len(content)}"
        path.write_bytes(content)
        made = AnchorFile(path, KEYS)
        made.create()
        assert made.read() == [Anchor()]


def _edit(lines: list[str]) -> None:
    body = json.loads(lines[1])
    lines[1] = json.dumps({**body, "seq": 9})


def _drop(lines: list[str]) -> None:
    del lines[1]


def _swap(lines: list[str]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def _other(lines: list[str]) -> None:
    lines[1] = "[]"


@pytest.mark.parametrize("tamper", [_edit, _drop, _swap, _other])
def test_tampering_is_detected(tmp_path: Path, tamper: object) -> None:
    """Edited, dropped, moved and foreign lines are named, also by a process that has it open."""
    path = tmp_path / "anchor"
    opened = write(path, 4)
    assert opened.last() == anchors(4)[-1]
    lines = path.read_text().splitlines()
    tamper(lines)  # type: ignore[operator]
    path.write_text("\n".join(lines) + "\n")

    for file in (opened, AnchorFile(path, KEYS)):
        with pytest.raises(AnchorFileError, match="line 2"):
            file.last()


def test_missing_file_and_other_key_are_errors(tmp_path: Path) -> None:
    """A file that is gone, and one that was made with another key, prove nothing."""
    path = tmp_path / "anchor"
    opened = write(path, 3)

    assert AnchorFile(path, (b"new", *KEYS)).read() == anchors(3)
    with pytest.raises(AnchorFileError, match="another key"):
        AnchorFile(path, (b"other",)).read()
    path.unlink()
    with pytest.raises(AnchorFileError, match="no anchors"):
        opened.last()


def test_large_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest anchor is always in the file, and the one before stays beside it."""
    monkeypatch.setattr(audit_anchor, "_ROTATE_BYTES", 600)
    path = tmp_path / "anchor"
    made = write(path, 9)

    assert made.last() == AnchorFile(path, KEYS).read()[-1] == anchors(9)[-1]
    assert path.stat().st_size < 1200
    assert AnchorFile(tmp_path / "anchor.1", KEYS).read()
