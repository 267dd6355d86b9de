"""Training of the surface front: it nears the teacher, resumes, and has augmentation beside it."""

import json
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.curriculum import Curriculum
from bem.training.sep.front_evaluation import score_views
from bem.training.sep.front_trainer import FrontTrainer, FrontTraining

from tests.unit.bem.training.sep.fronts import LAYER, shifted_view, taught, tiny_decoder

TINY: dict[str, Any] = {
    "layers": 2,
    "rank": 4,
    "matched_layer": LAYER,
    "matching_steps": 3,
    "prediction_steps": 3,
    "batch": 3,
}


def trainer(folder: Path, **settings: Any) -> FrontTrainer:
    """Return a trainer of a tiny front."""
    backbone, decoder = tiny_decoder()
    return FrontTrainer(backbone, decoder, FrontTraining(**TINY | settings), folder, save_steps=2)


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the lines of the curve."""
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_both_stages_near_the_teacher(tmp_path: Path) -> None:
    """The losses of both stages fall, and so does the divergence of fixed views."""
    texts = taught(tmp_path)
    steps = {"matching_steps": 60, "prediction_steps": 40, "learning_rate": 1e-2}
    steady = {"curriculum": Curriculum(0.2, 0.2), "clean_share": 0.0}
    one = trainer(tmp_path / "run", **steps, **steady)
    views = [shifted_view(texts, number, 0.2, 10_000 + number) for number in range(len(texts))]
    before = score_views(one.decoder, texts, views, None)
    factors = one.run(texts, partial(shifted_view, texts))
    after = score_views(one.decoder, texts, views, factors, scale=one.config.scale)
    lines = curve(tmp_path / "run")

    matching = [line["matching"] for line in lines[:60]]
    assert sum(matching[-20:]) < sum(matching[:20])
    assert {"divergence", "weighted_matching"} <= set(lines[60])
    assert fmean(one.divergence for one in after) < fmean(one.divergence for one in before)


def test_a_killed_run_goes_on_as_if_nothing_happened(tmp_path: Path) -> None:
    """The same losses and factors come out after a stop between two checkpoints."""
    texts = taught(tmp_path)
    draw = partial(shifted_view, texts)
    whole = trainer(tmp_path / "whole")
    wanted = whole.run(texts, draw)
    cut = trainer(tmp_path / "cut")
    cut.run(texts, draw, stop_step=4)
    cut.train_step(texts, draw)
    again = trainer(tmp_path / "cut")
    got = again.run(texts, draw)

    for path, (a, b) in wanted.items():
        assert torch.equal(a, got[path][0])
        assert torch.equal(b, got[path][1])
    keys = ("step", "gradient_norm")
    first, second = (
        [[line[key] for key in keys] for line in curve(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert first == second


def test_augmentation_has_labels_and_no_teacher(tmp_path: Path) -> None:
    """The baseline's curve is a cross entropy."""
    texts = taught(tmp_path)
    one = trainer(tmp_path / "run", objective="augmentation", matching_steps=0)
    one.run(texts, partial(shifted_view, texts))

    assert [set(line) & {"cross_entropy", "divergence"} for line in curve(tmp_path / "run")] == [
        {"cross_entropy"}
    ] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "other"}, "objective"),
        ({"objective": "augmentation"}, "matching_steps"),
        ({"matching_steps": 0, "prediction_steps": 0}, "steps"),
        ({"layers": 5, "matched_layer": 4}, "layers"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    """The error begins with the setting."""
    with pytest.raises(InvalidSettingError, match=f"^{message}"):
        FrontTraining(**TINY | settings)


def test_fewer_texts_than_a_batch_are_refused(tmp_path: Path) -> None:
    """A step needs different texts."""
    texts = taught(tmp_path, 2)
    with pytest.raises(InvalidSettingError, match="texts: 2"):
        trainer(tmp_path / "run").run(texts, partial(shifted_view, texts))
