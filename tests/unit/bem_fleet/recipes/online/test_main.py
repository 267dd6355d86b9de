"""Command of the online recipe on the tiny model."""

import json
from pathlib import Path

import pytest
from bem.online.artifact import read_bank
from bem.testing import tiny_backbone
from bem_fleet.recipes.online import __main__ as recipe
from bem_fleet.recipes.online.__main__ import main, training_items

SMALL = {
    "--items": 4,
    "--epochs": 1,
    "--rank": 2,
    "--unrelated": 120,
    "--corrections": 4,
    "--probes": 3,
    "--seed": 3,
}


@pytest.mark.slow
def test_bank_is_trained_and_read_as_the_service_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card has command, seed, families and measurements, and the bank is read."""
    sizes = [word for name, value in SMALL.items() for word in (name, str(value))]
    sizes += ["--backbone", "tiny", "--cache", str(tmp_path)]
    main(["train", "--out", str(tmp_path / "bank"), *sizes])
    artifact = read_bank(tmp_path / "bank", base_digest=tiny_backbone().digest)

    assert "--seed 3" in artifact.card.command
    assert len(artifact.card.families) == len(artifact.table) == 24
    assert artifact.card.metrics == json.loads(capsys.readouterr().out)
    assert {"probe_base", "probe_start", "probe_adapted", "probe_own"} <= set(artifact.card.metrics)
    assert artifact.bank.width == 2 * 2 * 2
    assert len(artifact.unrelated) == 120


def test_training_items_cover_all_families_alike() -> None:
    """Each training family has as many items, in wordings of both parts."""
    items = training_items(5, seed=0)

    assert len(items) == 24 * 5
    assert {sum(one.family == name for one in items) for name in {i.family for i in items}} == {5}


def test_held_out_families_are_never_asked_for() -> None:
    """The recipe's modules name no held-out split."""
    folder = Path(recipe.__file__).parent

    assert not [path.name for path in folder.glob("*.py") if '"held_out"' in path.read_text()]
