"""The recipe trains a front, scores it beside the base model and writes its artifact."""

import json
from pathlib import Path

import pytest
from bem.sep.front_artifact import load_front
from bem.testing import tiny_backbone
from bem.training.sep.front_trainer import FrontTraining
from bem_fleet.recipes.sep_front import __main__ as recipe
from bem_fleet.recipes.sep_front.surface_texts import SurfaceText

WORDS = ("ship", "north", "river", "mountain", "harbour", "winter", "garden", "window", "letter")


@pytest.mark.slow
def test_front_is_trained_scored_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both systems have scores in every condition; a second run repeats the first."""
    texts = [SurfaceText("", f"the {word} and the {word} of the {word}", "") for word in WORDS]
    monkeypatch.setattr(recipe, "load_backbone", lambda **_: tiny_backbone())
    monkeypatch.setattr(recipe, "surface_texts", lambda *_: texts)
    sizes = FrontTraining(layers=2, rank=4, matched_layer=3, batch=4)
    monkeypatch.setattr(recipe, "DEFAULTS", sizes)
    words = ["--out", str(tmp_path / "front"), "--cache", str(tmp_path / "cache")]
    words += ["--matching-steps", "2", "--prediction-steps", "2"]
    recipe.main(words)
    report = json.loads(capsys.readouterr().out)
    factors, card = load_front(tmp_path / "front", base_digest=tiny_backbone().digest)

    assert set(report["base"]) == {"clean", *recipe.CONDITIONS} == set(report["front"])
    assert report["base"]["clean"]["divergence"] == pytest.approx(0, abs=0.01)
    assert report["base"]["held_out_typos"]["divergence"] > report["base"]["clean"]["divergence"]
    assert (card.layers, card.rank, len(factors)) == ([0, 1], 4, 4)
    assert card.metrics["front"] == report["front"]

    recipe.main(words)
    assert json.loads(capsys.readouterr().out)["front"] == report["front"]
