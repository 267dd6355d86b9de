"""Command of the memory recipe on the tiny model."""

import json
from pathlib import Path

import pytest
from bem.memory.artifact import load_modules
from bem.testing import tiny_backbone
from bem_fleet.recipes.memory.__main__ import main

pytestmark = pytest.mark.slow


def test_artifact_is_loaded_as_the_service_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card has command, seed, data and measurements, and the trained modules are read."""
    sizes = ["--characters", "4000", "--items", "2", "--seed", "3"]
    main(["--backbone", "tiny", "--out", str(tmp_path), *sizes])
    modules, card = load_modules(tmp_path, base_digest=tiny_backbone().digest)

    assert "--seed 3" in card.command
    assert card.seed == 3
    assert len(card.data_digest) == 64
    assert card.metrics == json.loads(capsys.readouterr().out)
    assert {"key_recall", "gate_auc", "state_accuracy", "confidence_ece"} <= set(card.metrics)
    assert float(modules.center.abs().sum()) > 0
