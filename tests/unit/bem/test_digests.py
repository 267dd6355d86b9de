"""Tests of SHA-256 digests of files and packages."""

import hashlib
from pathlib import Path

from bem.digests import code_digest, file_digest


def test_file_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    """A changed file has another digest, without any cache in between."""
    path = tmp_path / "file"
    for content in (b"a", b"b"):
        path.write_bytes(content)
        assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_code_digest_depends_on_modules_only(tmp_path: Path) -> None:
    """Data files and sub-packages do not count; a changed module does."""
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        (folder / "inner").mkdir(parents=True)
        (folder / "module.py").write_text("x = 2" if name == "three" else "x = 1")
        (folder / "inner" / "module.py").write_text(name)
        (folder / "data.json").write_text(name)

    assert code_digest(tmp_path / "one") == code_digest(tmp_path / "two")
    assert code_digest(tmp_path / "one") != code_digest(tmp_path / "three")
