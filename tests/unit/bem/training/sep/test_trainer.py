"""Character trainer: it learns, resumes bit for bit, clamps, thaws and stops."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.sep.curriculum import Curriculum
from bem.training.sep.trainer import CharacterTrainer

from tests.support.tiny_character_training import tiny_text, tiny_training

TEXT, DEVELOPMENT = tiny_text(0), tiny_text(1)


def curve(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a curve without times."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["lm", "sep"])
def test_cross_entropy_falls(arm: str, tmp_path: Path) -> None:
    """Counting is learnt, alone and with all of SEP's losses; nothing collapses."""
    trainer = CharacterTrainer(tiny_training(arm, 40), tmp_path)
    trainer.run(TEXT, DEVELOPMENT)
    losses = [line["cross_entropy"] for line in curve(tmp_path)]

    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize("save_steps", [5, 100])
def test_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path, save_steps: int) -> None:
    """Parameters, curve and thaw are the same bit for bit, wherever the run ended.

    With the adversary, a soft clamp and a curriculum everything that has state takes part.
    """
    config = tiny_training(
        "sep-adversary",
        12,
        clamp="soft",
        patience=1,
        least_gain=9.0,  # so that groups are opened on the way
        curriculum=Curriculum(),
        observe_steps=2,
    )
    whole = CharacterTrainer(config, tmp_path / "whole", save_steps=5)
    whole.run(TEXT, DEVELOPMENT)
    halted = CharacterTrainer(config, tmp_path / "parts", save_steps=save_steps)
    halted.folder.mkdir()
    for _ in range(7):  # killed after step 7; the last checkpoint is of step 5, or there is none
        halted.train_step(TEXT)
        if halted.step % 2 == 0:
            halted.observe(DEVELOPMENT)
        if halted.step % save_steps == 0:
            halted._checkpoint()
    parts = CharacterTrainer(config, tmp_path / "parts", save_steps=save_steps)
    parts.run(TEXT, DEVELOPMENT)

    assert parts.thaw == whole.thaw
    assert parts.thaw.opened > 1
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, parts.parameters[name]), name


KILLED = """
import os, signal, sys
from pathlib import Path
from bem.training.sep.trainer import CharacterTrainer
from tests.support.tiny_character_training import tiny_text, tiny_training
trainer = CharacterTrainer(tiny_training("sep", 8), Path(sys.argv[1]), save_steps=3)
step = trainer.train_step
def die_later(text):
    if trainer.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(text)
trainer.train_step = die_later
trainer.run(tiny_text(0), tiny_text(1))
"""


@pytest.mark.slow
def test_killed_process_continues_with_the_same_curve(tmp_path: Path) -> None:
    """A process that is killed by SIGKILL between two checkpoints leaves no trace in the run."""
    root = Path(__file__).resolve().parents[5]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'libs'}"},
        check=False,
        capture_output=True,
    )
    at_kill = curve(tmp_path / "killed")
    for name in ("killed", "complete"):
        CharacterTrainer(tiny_training("sep", 8), tmp_path / name).run(TEXT, DEVELOPMENT)
    lines = curve(tmp_path / "killed")

    assert killed.returncode == -signal.SIGKILL
    assert len(at_kill) == 5
    assert lines[:3] == at_kill[:3]
    # The process may have other threads than this one, whose sums round otherwise.
    losses = [line["cross_entropy"] for line in curve(tmp_path / "complete")]
    assert [line["cross_entropy"] for line in lines] == pytest.approx(losses, abs=1e-5)


def test_hard_clamp_trains_the_front_only(tmp_path: Path) -> None:
    """Clamped groups stay bit for bit; an opened one trains."""
    config = tiny_training("sep", 4, clamp="hard", observe_steps=100)
    initial = CharacterTrainer(tiny_training("lm", 1), tmp_path / "lm").model.state_dict()
    initial = {name: tensor.clone() for name, tensor in initial.items()}
    trainer = CharacterTrainer(config, tmp_path / "hard", initial=initial)
    trainer.run(TEXT, DEVELOPMENT)

    front, later = trainer.groups[0], [name for group in trainer.groups[1:] for name in group]
    now = trainer.model.state_dict()
    assert any(not torch.equal(now[name], initial[name]) for name in front)
    assert all(torch.equal(now[name], initial[name]) for name in later)
    assert trainer.teacher is not None
    assert all(torch.equal(p, initial[n]) for n, p in trainer.teacher.state_dict().items())


def test_soft_clamp_moves_the_backbone_less(tmp_path: Path) -> None:
    """A tenth of the rate until the thaw: Adam's first step is the rate itself."""
    trainer = CharacterTrainer(tiny_training("sep", 4, clamp="soft"), tmp_path)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.train_step(TEXT)
    moved = {
        name: float((p.detach() - before[name]).abs().max())
        for name, p in trainer.parameters.items()
    }

    assert moved["model.blocks.2.up.weight"] < 0.2 * moved["model.blocks.0.up.weight"]
    assert moved["model.blocks.2.up.weight"] > 0


def test_plateaus_open_groups(tmp_path: Path) -> None:
    """Without learning every observation is a plateau, until all groups train."""
    config = tiny_training("sep", 10, clamp="hard", learning_rate=0.0, observe_steps=1, patience=1)
    trainer = CharacterTrainer(config, tmp_path)
    trainer.run(TEXT, DEVELOPMENT)

    assert [line["opened"] for line in curve(tmp_path)][:6] == [1, 1, 2, 2, 3, 3]
    assert trainer.thaw.opened == len(trainer.groups) == 4


@pytest.mark.slow
def test_run_ends_when_clean_text_gets_worse(tmp_path: Path) -> None:
    """A model that leaves its teacher by more than 1 % of perplexity stops."""
    teacher = CharacterTrainer(tiny_training("lm", 60), tmp_path / "lm")
    teacher.run(TEXT, DEVELOPMENT)
    config = tiny_training("sep", 40, learning_rate=0.3, observe_steps=1)
    trainer = CharacterTrainer(config, tmp_path / "sep", initial=teacher.model.state_dict())
    trainer.run(TEXT, DEVELOPMENT)

    assert trainer.thaw.stopped
    assert trainer.step < 40


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    """Odd rows, unknown clamps, budgets below a step and short texts are named."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rows": 3}, "rows are even"),
        ({"clamp": "firm"}, "clamp, front: 'firm'"),
        ({"characters": 10}, "at least 192, one step"),
    ]
    for changes, problem in wrong:
        with pytest.raises(InvalidSettingError, match=problem):
            tiny_training("lm", 1, **changes)
    with pytest.raises(InvalidSettingError, match="rows: 2; at least 4"):
        tiny_training("sep", 1, rows=2)
    with pytest.raises(InvalidSettingError, match="development: 24 characters; more than"):
        CharacterTrainer(tiny_training("lm", 1), tmp_path).run(TEXT, DEVELOPMENT[:24])
