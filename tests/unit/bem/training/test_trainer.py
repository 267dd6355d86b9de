"""Training learns, and a run that was interrupted ends as one that was not."""

from pathlib import Path

import pytest
import torch
from bem.data.passage_qa import Item
from bem.testing import tiny_backbone
from bem.training.features import Example, cache_examples
from bem.training.trainer import SkillTrainer, TrainingPlan


def examples() -> list[Example]:
    """A few short examples of the tiny model."""
    items = [Item(str(i), f"p{i}", "q", f"a{i}") for i in range(6)]
    return cache_examples(tiny_backbone(), items, first_layer=2, feature_layer=0)


def plan(epochs: int) -> TrainingPlan:
    """A short plan."""
    return TrainingPlan(
        layers=(2, 3), rank=4, feature_layer=0, epochs=epochs, batch=4, learning_rate=0.01
    )


def test_loss_falls_and_the_base_stays(tmp_path: Path) -> None:
    """Only factors and controller move."""
    backbone = tiny_backbone()
    before = backbone.model.lm_head.weight.clone()
    trainer = SkillTrainer(backbone, plan(30), tmp_path)
    data = examples()
    first = trainer.loss(data).item()
    trainer.run(data)

    assert trainer.loss(data).item() < 0.9 * first
    assert torch.equal(backbone.model.lm_head.weight, before)
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 60


def test_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed in its third epoch goes on from the second and ends the same."""
    data = examples()
    whole = SkillTrainer(tiny_backbone(), plan(4), tmp_path / "whole")
    whole.run(data)
    broken = SkillTrainer(tiny_backbone(), plan(4), tmp_path / "broken")
    step = broken._step

    def fail_later(batch: list[Example], total: int) -> float:
        if broken.step == 5:
            raise KeyboardInterrupt
        return step(batch, total)

    monkeypatch.setattr(broken, "_step", fail_later)
    with pytest.raises(KeyboardInterrupt):
        broken.run(data)
    resumed = SkillTrainer(tiny_backbone(), plan(4), tmp_path / "broken")
    resumed.run(data)

    wanted, found = whole.tensors(), resumed.tensors()
    assert resumed.step == whole.step
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    """A changed plan never continues an old run."""
    SkillTrainer(tiny_backbone(), plan(1), tmp_path).run(examples())
    with pytest.raises(ValueError, match="another plan"):
        SkillTrainer(tiny_backbone(), plan(2), tmp_path).run(examples())
