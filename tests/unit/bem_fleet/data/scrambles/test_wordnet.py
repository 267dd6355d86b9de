"""The database's lines are read by their format; the archive is the pinned one."""

import tarfile
from pathlib import Path

import pytest
from bem.digests import file_digest
from bem.errors import DataFormatError, DataNotFoundError
from bem_fleet.data.scrambles import wordnet
from bem_fleet.data.scrambles.wordnet import load_synonyms, parse_synonyms

INDEX = """  1 This database is licensed.
big a 2 2 & = 2 1 00000010 00000020
bigger_deal a 1 0 1 0 00000010
large a 1 0 1 1 00000010
lone a 1 0 1 0 00000030
"""
DATA = """  1 This database is licensed.
00000010 00 a 03 big 0 large(p) 0 bigger_deal 0 001 & 00000020 a 0000 | of some size
00000020 00 a 02 big 0 adult 0 000 | of some age
00000030 00 s 01 lone 0 000 | alone
"""


def write_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an archive of the lines above as every part of speech."""
    (folder / "index").write_text(INDEX)
    (folder / "data").write_text(DATA)
    path = folder / wordnet.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for part in wordnet.PARTS_OF_SPEECH:
            for name in ("index", "data"):
                archive.add(folder / name, f"package/dict/{name}.{part}")
    monkeypatch.setattr(wordnet, "DIGEST", file_digest(path))
    return folder


def test_synonyms_are_those_of_the_first_sense() -> None:
    """Rare senses, several words, markers and the word itself are left out."""
    assert parse_synonyms(INDEX, DATA) == {"big": ("large",), "large": ("big",)}


def test_archive_is_read_for_every_part_of_speech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of speech has its own synonyms."""
    synonyms = load_synonyms(write_archive(tmp_path, monkeypatch))

    assert synonyms == {
        (lemma, part): words
        for part in wordnet.PARTS_OF_SPEECH
        for lemma, words in {"big": ("large",), "large": ("big",)}.items()
    }


def test_missing_and_other_archives_are_refused(tmp_path: Path) -> None:
    """The error says what to run."""
    with pytest.raises(DataNotFoundError, match="run `make wordnet`"):
        load_synonyms(tmp_path / "none")
    (tmp_path / wordnet.ARCHIVE).write_bytes(b"other")
    with pytest.raises(DataFormatError, match="not the archive that is pinned"):
        load_synonyms(tmp_path)
    with pytest.raises(DataFormatError, match="malformed"):
        parse_synonyms("big a 1", DATA)
