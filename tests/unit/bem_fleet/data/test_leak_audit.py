"""Splitter and leak audit, on made sets and on the real ones."""

from pathlib import Path

import pytest
from bem_fleet.data import __main__ as command
from bem_fleet.data import leak_audit
from bem_fleet.data.displaced import DISPLACED_FILE, displaced_keys
from bem_fleet.data.near_duplicates import text_keys
from bem_fleet.data.prompt_wording import content_parts
from bem_fleet.data.split_items import SCOPES, SplitItem

ROOT = Path(__file__).resolve().parents[4]
LONG = "every quiet evening the tall keeper lights nine lamps above the cold harbour"


def item(split: str, key: str, text: str, set_name: str = "made") -> SplitItem:
    """Return an item of a made set."""
    return SplitItem(set_name, split, key, f"family {key}", text_keys(text))


ITEMS = [
    item("train", "t", f"We read: {LONG}."),
    item("dev", "d", "How do I tie a bowline?"),
    item("dev", "copy of train", f"{LONG} again"),
    item("held_out", "h", "What do whales eat in winter?"),
    item("held_out", "copy of dev", "how do I tie a bowline", "other"),
    item("held_out", "copy of the copy", f"{LONG} again, and once more", "other"),
]


def test_near_duplicates_end_in_the_earliest_split() -> None:
    """Train keeps its items, dev loses copies of train, held_out copies of both."""
    assert leak_audit.find_displaced(ITEMS) == {
        "made": ["copy of train"],
        "other": ["copy of dev", "copy of the copy"],
    }


def test_audit_names_every_pair_that_leaks() -> None:
    """With the displaced items left out nothing leaks; with one of them it is named."""
    displaced = leak_audit.find_displaced(ITEMS)
    clean = leak_audit.audit("s", ITEMS, displaced)
    leaky = leak_audit.audit("s", ITEMS, displaced | {"other": ["copy of the copy"]})

    assert leak_audit.find_leaks(clean) == []
    assert [row.part for row in clean] == ["made, dev", "made, held_out", "other, held_out"]
    assert clean[2].shared == {"made, dev": 2, "made, train": 1}
    assert (clean[2].items, clean[2].kept, clean[2].clusters) == (2, 0, 0)
    (leak,) = [one for one in leak_audit.find_leaks(leaky) if "made, dev" in one]
    assert leak.startswith("s: 1 of 1 items of other, held_out share a text with made, dev; run `")


def test_page_has_a_row_for_each_part() -> None:
    """The table shows what was displaced, and pairs with something in common."""
    rows = leak_audit.audit("s", ITEMS, leak_audit.find_displaced(ITEMS))
    page = leak_audit.audit_page(rows)

    assert "| s | other, held_out | 2 | 2 | 0 | 0 | 0 |" in page
    assert "| s | other, held_out | made, train | 1 | 0 |" in page


def test_harness_wording_is_no_content() -> None:
    """All items of a set share it, whatever their split."""
    parts = content_parts("Answer the question from the passage.\n\nPassage: A b.\n\nQuestion: c?")

    assert parts == ["A b.", "c?"]


@pytest.mark.slow
def test_no_text_is_in_two_splits_and_the_table_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The audit of all sets, as CI runs it; it fails on a leak and on a stale table."""
    assert leak_audit.displaced_document() == DISPLACED_FILE.read_text(encoding="utf-8")
    arguments = ["x", "leaks", "--check"]
    monkeypatch.setattr("sys.argv", arguments)
    assert command.main() == 0, capsys.readouterr().err

    monkeypatch.setattr("sys.argv", [*arguments, "--out", str(tmp_path / "none.md")])
    assert command.main() == 1
    assert "stale" in capsys.readouterr().err

    monkeypatch.setattr(leak_audit, "displaced_keys", lambda _: frozenset())
    monkeypatch.setattr("sys.argv", ["x", "leaks", "--out", str(tmp_path / "leaky.md")])
    assert command.main() == 1
    assert "red-team, held_out share a text with red-team, train" in capsys.readouterr().err


def test_displaced_items_are_of_known_sets() -> None:
    """A set that is renamed must not lose its list."""
    assert displaced_keys("red-team")
    assert displaced_keys("riddles") == frozenset()
    assert set(SCOPES) == {"guard", "records", "skills"}
