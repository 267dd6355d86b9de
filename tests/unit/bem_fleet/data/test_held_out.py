"""Closed held-out sets and the register of their openings."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.benign_prompts import load_benign_requests, load_benign_responses
from bem_fleet.data.compositions import SPLIT_SEEDS, generate_questions
from bem_fleet.data.guard_texts import parallel_texts, written_texts
from bem_fleet.data.held_out import (
    HELD_OUT_SETS,
    HeldOutClosedError,
    final_evaluation,
    inspection,
    read_register,
    require_open,
)
from bem_fleet.data.passage_qa import load_passage_qa
from bem_fleet.data.red_team import load_red_team
from bem_fleet.data.toxic_comments import load_toxic_comments
from bem_fleet.data.unseen_families import load_unseen_families

ROOT = Path(__file__).resolve().parents[4]
LOADERS: dict[str, Callable[[], object]] = {
    "red-team": lambda: load_red_team("held_out"),
    "benign": lambda: load_benign_requests("held_out"),
    "benign replies": lambda: load_benign_responses("held_out"),
    "guard-texts": lambda: written_texts("held_out"),
    "guard-languages": parallel_texts,
    "toxicity": lambda: load_toxic_comments("held_out"),
    "passage-qa": lambda: load_passage_qa().splits["held_out"],
    "passage-qa, values": lambda: list(load_passage_qa().splits.values()),
    "compositions": lambda: list(generate_questions("held_out", SPLIT_SEEDS["held_out"].start, 1)),
    "strangers": lambda: load_unseen_families(10),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loader_is_closed_and_counted(name: str, tmp_path: Path) -> None:
    """Every set is closed before, open and counted in a final evaluation, and closed after it."""
    with pytest.raises(HeldOutClosedError, match="is closed"):
        LOADERS[name]()
    with final_evaluation("make it", tmp_path / "register.json") as opening:
        assert LOADERS[name]()
    assert opening.counts
    assert set(opening.counts.values()) == {1}
    with pytest.raises(HeldOutClosedError):
        LOADERS[name]()


def test_every_run_counts_once_and_a_failed_one_too(tmp_path: Path) -> None:
    """Reading a set twice in a run is one opening; a run that fails has seen the items."""
    register = tmp_path / "results" / "register.json"
    for _ in range(2):
        with final_evaluation("first", register) as opening:
            require_open("benign")
            require_open("benign")
            require_open("benign", "train")
    with suppress(RuntimeError), final_evaluation("second", register) as opening:
        require_open("benign")
        raise RuntimeError

    assert opening.counts == {"benign": 3}
    assert read_register(register) == {
        "benign": {
            "draw": HELD_OUT_SETS["benign"],
            "opened": 3,
            "commands": {"first": 2, "second": 1},
        }
    }


def test_new_draw_starts_again(tmp_path: Path) -> None:
    """The counter is of the items that are held out now."""
    register = tmp_path / "register.json"
    register.write_text('{"benign": {"draw": 0, "opened": 9, "commands": {"old": 9}}}')
    with final_evaluation("new", register) as opening:
        require_open("benign")

    assert opening.counts == {"benign": 1}
    assert read_register(register)["benign"]["commands"] == {"new": 1}


def test_inspection_counts_nothing_and_ends(tmp_path: Path) -> None:
    """Comparing texts is no look; an inspection inside an evaluation leaves its counts alone."""
    with final_evaluation("x", tmp_path / "register.json") as opening:
        with inspection():
            require_open("benign")
        assert opening.counts == {}
        require_open("benign")
    assert opening.counts == {"benign": 1}
    with pytest.raises(HeldOutClosedError):
        require_open("benign")


@pytest.mark.parametrize("content", ["[]", "{", '{"benign": {"draw": 1}}', '{"benign": 3}'])
def test_broken_register_is_an_error(content: str, tmp_path: Path) -> None:
    """It never counts from 0 again."""
    register = tmp_path / "register.json"
    register.write_text(content)
    with (
        pytest.raises(DataFormatError, match="not a register"),
        final_evaluation("x", register),
    ):
        require_open("benign")


def test_unknown_set_is_an_error() -> None:
    """A set that is not in the table has no draw and no counter."""
    with pytest.raises(DataFormatError, match="unknown"):
        require_open("riddles")


def test_nothing_but_the_data_package_inspects() -> None:
    """Code that judges, trains or measures cannot open a set without being counted."""
    door = re.compile(
        r"\binspection\(|\ball_(prompts|texts|written_texts|questions|choice_questions|facts)\("
    )
    found = [
        str(path.relative_to(ROOT))
        for folder in ("libs/bem_fleet", "services", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if door.search(path.read_text(encoding="utf-8"))
    ]

    assert found
    assert not [path for path in found if not path.startswith("libs/bem_fleet/data/")]


def test_committed_register_is_valid() -> None:
    """It names known sets and their draws."""
    for name, entry in read_register().items():
        assert entry["draw"] == HELD_OUT_SETS[name]
        assert entry["opened"] == sum(entry["commands"].values()) > 0
