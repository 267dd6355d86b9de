"""A tiny character model's training, and text with structure to learn."""

import dataclasses
from typing import Any

import torch
from bem.sep.arms import ARMS
from bem.sep.character_model import CharacterModelConfig
from bem.training.sep.trainer import CharacterTraining
from torch import Tensor

TINY = CharacterModelConfig(alphabet=8, width=16, layers=3, heads=2, code_layer=2)


def tiny_text(seed: int = 0, length: int = 600) -> Tensor:
    """Return ids 1 to 7 that mostly count up by one."""
    generator = torch.Generator().manual_seed(seed)
    jumps = torch.randint(7, (length,), generator=generator)
    is_jump = torch.rand(length, generator=generator) < 0.1
    return torch.where(is_jump, jumps, 1).cumsum(0) % 7 + 1


def tiny_training(arm: str, steps: int, **changes: Any) -> CharacterTraining:
    """Return a configuration of a number of steps of 8 rows of 24 characters."""
    config = CharacterTraining(
        model=TINY,
        arm=ARMS[arm],
        characters=steps * 8 * 24,
        rows=8,
        length=24,
        learning_rate=0.01,
        observe_steps=5,
        cipher_start=4,
        cipher_full=12,
        front=1,
    )
    return dataclasses.replace(config, **changes)
