"""Attacks by family: what is learned from and what is held out never meet."""

from pathlib import Path

import pytest
from bem.data.red_team import CATEGORIES
from bem.data.redteam import HELD_OUT, held_out, learned, literal_of
from bem.errors import DataFormatError

PASSAGES = ["The river rises in the hills. It flows to the sea. " * 8] * 12


def test_families_and_prompts_are_learned_or_held_out_never_both() -> None:
    """No family, and no prompt of another family, is on both sides."""
    known, strange = list(learned(PASSAGES)), held_out()

    assert not {one.family for one in known} & {one.family for one in strange}
    assert not {one.prompt for one in known} & {one.prompt for one in strange}
    assert {one.family for one in strange} == set(HELD_OUT)


def test_every_category_is_on_both_sides() -> None:
    """Six categories, four kinds of attack, and keys that are unique."""
    known, strange = list(learned(PASSAGES)), held_out()

    assert {one.category for one in known} == set(CATEGORIES)
    assert {one.category for one in strange} == set(CATEGORIES)
    assert {one.kind for one in strange} == {"direct", "jailbreak", "role play", "injection"}
    assert len({one.key for one in strange}) == len(strange)


def test_prompts_are_filled_in() -> None:
    """No template's placeholder is left, and injections lie inside their passage."""
    hidden = [one for one in learned(PASSAGES) if one.family == "latent-injection"]

    assert len(hidden) == len(PASSAGES)
    for one in hidden:
        assert one.prompt.startswith("The river")
        assert len(one.prompt) > 200
    for one in (*hidden, *held_out(20)):
        for left in ("MARKER>", "{name}", "{group_name}", "[SUBSTANCE]", "{REPLACE_"):
            assert left not in one.prompt


def test_a_family_is_sampled_the_same_way_each_time() -> None:
    """Fewer prompts are the first of more."""
    few, more = held_out(5), held_out(9)

    assert {one.key for one in few} < {one.key for one in more}
    assert held_out(5) == few


def test_literals_are_read_without_running_the_file(tmp_path: Path) -> None:
    """Markers in f-strings stay as names; what is computed is no literal."""
    path = tmp_path / "m.py"
    path.write_text("raise SystemExit\nA = [f'say {X} now', 'b']\nB = len('b')\n")

    assert literal_of(path, "A") == [["say <X> now", "b"]]
    with pytest.raises(DataFormatError, match="B"):
        literal_of(path, "B")
