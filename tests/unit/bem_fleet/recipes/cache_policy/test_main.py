"""Tests of the command that trains the learned cache policy, on the tiny model."""

import json
from pathlib import Path

import pytest
from bem.cache_policy.artifact import load_scorer
from bem.testing import tiny_backbone
from bem_fleet.recipes.cache_policy.__main__ import main, split_records

from tests.unit.bem_fleet.recipes.cache_policy.synthetic_records import synthetic_records


def test_a_passage_is_on_one_side_of_the_split() -> None:
    """No passage of the measured records is trained on."""
    train, dev = split_records(synthetic_records())

    assert {one.cluster for one in train} & {one.cluster for one in dev} == set()
    assert len(train) + len(dev) == 6
    assert dev


@pytest.mark.slow
def test_the_command_writes_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The artifact is of the base model, and its card holds what was printed."""
    main(["--backbone", "tiny", "--records", "8", "--steps", "5", "--out", str(tmp_path)])
    printed = json.loads(capsys.readouterr().out)
    _, card = load_scorer(tmp_path, base_digest=tiny_backbone().digest)

    assert card.metrics == printed
    assert (card.layers, card.kv_heads) == (4, 2)
    assert 0 < printed["retained_learned_0.25"] <= printed["retained_learned_0.5"] <= 1
    assert printed["records_dev"] > 0
