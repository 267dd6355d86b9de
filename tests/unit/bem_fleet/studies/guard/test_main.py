"""Guards of the guard study: one for each training seed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bem_fleet.guard.scoring.heads import CARD, ENCODER
from bem_fleet.studies.guard import __main__ as command

ORIGIN = {
    "encoder_sha256": "e",
    "data_sha256": {"written": "w"},
    "false_positive_rates": {"abuse": 0.003},
}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the seeds that are trained; the training writes a card of the served origin."""
    seeds: list[int] = []

    def train(folder: Path, _: object, seed: int) -> None:
        seeds.append(seed)
        (folder / CARD).write_text(json.dumps(ORIGIN))

    def guard(folder: Path, *_: object) -> Path:
        return folder

    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / ENCODER).write_bytes(b"factors")
    (tmp_path / "guard" / CARD).write_text(json.dumps(ORIGIN))
    monkeypatch.setattr(command, "HEADS", tmp_path / "guard")
    monkeypatch.setattr(command, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(command, "train_heads", train)
    monkeypatch.setattr(command, "OfflineGuard", guard)
    return seeds


def folders(found: Sequence[Any]) -> list[str]:
    """Return the names of the guards' folders."""
    return [folder.name for folder in found]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoder_sha256", "other"),
        ("data_sha256", {"written": "other"}),
        ("data_sha256", {}),
        ("false_positive_rates", {"abuse": 0.004}),
    ],
)
def test_heads_of_another_origin_are_trained_anew(
    trained: list[int], field: str, value: Any
) -> None:
    """Each seed has a folder of its own, with the served encoder; equal origins are kept."""
    first = command.load_guards()
    card = command.CACHE / "seed-2" / CARD
    command.load_guards()

    assert folders(first) == ["guard", "seed-1", "seed-2"]
    assert trained == [1, 2]
    assert (card.parent / ENCODER).read_bytes() == b"factors"
    card.write_text(json.dumps(ORIGIN | {field: value}))
    command.load_guards()

    assert trained == [1, 2, 2]
