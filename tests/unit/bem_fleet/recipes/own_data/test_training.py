"""Counts and the estimate of a run, on the tiny model."""

from pathlib import Path

import pytest
from bem.testing import tiny_backbone
from bem.training.trainer import AdapterTrainer
from bem_fleet.data.instruction_files import Instruction, InstructionFileError
from bem_fleet.recipes.own_data.training import estimate, make_config, tokenise

DATA = [Instruction(n + 1, (("user", "q" * (n + 1)),), "reply") for n in range(20)]
OPTIONS = {"epochs": 2, "batch": 4, "learning_rate": 0.01, "scale": 2.0, "seed": 0}


def test_replies_are_counted_with_their_end() -> None:
    """Prompts are rendered as the model is asked; longer examples are named by line."""
    pairs, counts = tokenise(tiny_backbone(), DATA, 40)
    longest = max(len(prompt) + len(reply) for prompt, reply in pairs)

    assert counts.reply == 6 * counts.items
    assert counts.prompt == sum(len(prompt) for prompt, _ in pairs)
    assert longest <= 40
    assert counts.items + len(counts.left_out) == 20
    assert counts.left_out[-1] == 20
    with pytest.raises(InstructionFileError):
        tokenise(tiny_backbone(), DATA, 5)


def test_estimate_measures_and_changes_nothing(tmp_path: Path) -> None:
    """All steps of all epochs; no gradient is left behind."""
    backbone = tiny_backbone()
    config = make_config(backbone, rank=4, kinds=["down_proj"], **OPTIONS)
    trainer = AdapterTrainer(backbone, config, tmp_path)
    pairs, _ = tokenise(backbone, DATA, 1000)
    found = estimate(trainer, pairs)

    assert found.steps == 2 * 5
    assert found.total_s == found.prepare_s + found.steps * found.step_s > 0
    assert trainer.step == 0
    assert all(one.grad is None for one in trainer.parameters.values())
    assert (config.layers, config.kinds, config.control) == ((2, 3), ("down_proj",), False)
