"""Training learns, and a run that was interrupted ends as one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training.features import Example, cache_examples
from bem.training.strategy import Strategy
from bem.training.trainer import AdapterTrainer, TrainingPlan
from bem_fleet.data.passage_qa import PassageQuestion

ITEMS = [PassageQuestion(str(i), f"p{i}" + "x" * (7 * i), "q", f"a{i}") for i in range(6)]


def examples(first_layer: int = 2, feature_layer: int = 0) -> list[Example]:
    """A few examples of the tiny model, of unlike lengths."""
    return cache_examples(
        tiny_backbone(), ITEMS, first_layer=first_layer, feature_layer=feature_layer
    )


def plan(epochs: int) -> TrainingPlan:
    """A short plan."""
    return TrainingPlan(
        layers=(2, 3), rank=4, feature_layer=0, epochs=epochs, batch=4, learning_rate=0.01
    )


def gradients(trainer: AdapterTrainer, data: list[Example]) -> dict[str, torch.Tensor]:
    """The gradients of one batch after factors and controller were moved away from zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trainer.accumulate(data)
    return {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}


def losses(folder: Path) -> list[float]:
    """The losses of a curve."""
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_base_stays(tmp_path: Path) -> None:
    """Only factors and controller move."""
    backbone = tiny_backbone()
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    trainer = AdapterTrainer(backbone, plan(30), tmp_path)
    data = examples()
    first = trainer.loss(data).item()
    trainer.run(data)

    assert trainer.loss(data).item() < 0.9 * first
    assert len(losses(tmp_path)) == 60
    after = dict(backbone.model.named_parameters())
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("strategy", [Strategy(row_tokens=1), Strategy(recompute=True)])
def test_strategies_give_the_same_gradients(strategy: Strategy, tmp_path: Path) -> None:
    """Every sequence on its own, or states recomputed: the gradients are those of one row."""
    data = examples()
    wanted = gradients(AdapterTrainer(tiny_backbone(), plan(1), tmp_path), data)
    found = gradients(AdapterTrainer(tiny_backbone(), plan(1), tmp_path, strategy=strategy), data)

    assert wanted
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_sites_in_all_layers_train_from_token_ids(tmp_path: Path) -> None:
    """With no layer below the sites nothing is cached but ids, and without control code is one."""
    everywhere = TrainingPlan(
        layers=(0, 1, 2, 3),
        rank=4,
        feature_layer=-1,
        control=False,
        epochs=20,
        batch=6,
        learning_rate=0.01,
    )
    data = examples(0, -1)
    trainer = AdapterTrainer(tiny_backbone(), everywhere, tmp_path)
    first = trainer.loss(data).item()
    trainer.run(data)

    assert data[0].hidden.dtype == torch.int64
    assert trainer.loss(data).item() < 0.9 * first
    assert not any("controller" in name for name in trainer.parameters)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.bem.training import test_trainer as here
trainer = here.AdapterTrainer(here.tiny_backbone(), here.plan(4), Path(sys.argv[1]), save_steps=3)
step = trainer.train_step
def die_later(batch, total):
    if trainer.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(batch, total)
trainer.train_step = die_later
trainer.run(here.examples())
"""


def test_killed_run_goes_on_with_the_same_curve(tmp_path: Path) -> None:
    """A process killed between two checkpoints, inside an epoch, resumes as if it never died."""
    root = Path(__file__).resolve().parents[4]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "broken")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'libs'}"},
        check=False,
        capture_output=True,
    )
    data = examples()
    whole = AdapterTrainer(tiny_backbone(), plan(4), tmp_path / "whole")
    whole.run(data)
    resumed = AdapterTrainer(tiny_backbone(), plan(4), tmp_path / "broken")
    at_kill = losses(tmp_path / "broken")
    resumed.run(data)

    assert killed.returncode == -signal.SIGKILL
    assert len(at_kill) == 5
    assert resumed.step == whole.step == 8
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(resumed.tensors()[name], tensor, rtol=1e-3, atol=1e-5)


def test_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    """A changed plan never continues an old run."""
    AdapterTrainer(tiny_backbone(), plan(1), tmp_path).run(examples())
    with pytest.raises(ValueError, match="another plan"):
        AdapterTrainer(tiny_backbone(), plan(2), tmp_path).run(examples())
