"""Books of packaged archives, on made archives."""

import io
import tarfile
from pathlib import Path

import pytest
from bem.digests import file_digest
from bem.errors import DataFormatError, DataNotFoundError
from bem_fleet.data import books
from bem_fleet.data.books import audit_books, book_haystack, load_books
from bem_fleet.data.held_out import HELD_OUT, HeldOutClosedError, inspection
from bem_fleet.data.leak_audit import find_leaks
from bem_fleet.data.split_items import SPLIT_ORDER
from bem_fleet.data.splits import assign_split

SHARED = "May the union of these many states be kept whole for ever."


def names_of(split: str) -> list[str]:
    """Return two names that the splitter puts into a split."""
    drawn = (f"person_{number}" for number in range(500))
    return [one for one in drawn if assign_split(one) == split][:2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an archive of two books a split, which share a sentence."""
    path = tmp_path / "made.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (one for split in SPLIT_ORDER for one in names_of(split)):
            for year in (1901, 1900):
                own = f"Spoke {name.replace('_', '')} in {year}. {SHARED}".encode()
                member = tarfile.TarInfo(f"package/data/{year}_{name}_n.txt")
                member.size = len(own)
                archive.addfile(member, io.BytesIO(own))
    monkeypatch.setattr(books, "ARCHIVES", {"made.tgz": file_digest(path)})
    return tmp_path


def test_books_keep_their_order_and_lose_shared_sentences(folder: Path) -> None:
    """A book has its parts by year; a later split lacks what an earlier one has."""
    train = load_books("train", folder)
    with inspection():
        later = [*load_books("dev", folder), *load_books(HELD_OUT, folder)]

    assert [one.name for one in train] == sorted(names_of("train"))
    assert [one.rpartition(" ")[2] for one in train[0].sentences[::2]] == ["1900.", "1901."]
    assert SHARED in train[0].text
    assert {one.split for one in later} == {"dev", HELD_OUT}
    assert not any(SHARED in one.text for one in later)


def test_audit_counts_books_as_clusters_and_finds_no_leak(folder: Path) -> None:
    """Shared sentences are displaced from both later splits."""
    rows = audit_books(folder)

    assert find_leaks(rows) == []
    assert [row.part for row in rows] == ["books, dev", "books, held_out"]
    assert all(row.items - row.kept >= 4 for row in rows)


def test_haystack_begins_with_the_book_of_its_seed(folder: Path) -> None:
    """It has the length, repeated if need be; held-out books are closed."""
    text, name = book_haystack("train", 1000, 1, folder)

    assert len(text) == 1000
    assert name == sorted(names_of("train"))[1]
    assert text.startswith(f"Spoke {name.replace('_', '')} in 1900.")
    with pytest.raises(HeldOutClosedError):
        book_haystack(HELD_OUT, 10, 0, folder)


def test_missing_and_other_archives_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which archive, and how to get it."""
    with pytest.raises(DataNotFoundError, match="run `make books`"):
        load_books("train", folder / "none")
    monkeypatch.setattr(books, "ARCHIVES", {"made.tgz": "0" * 64})
    books._all_books.cache_clear()
    with pytest.raises(DataFormatError, match=r"made\.tgz is not the archive"):
        load_books("train", folder)
