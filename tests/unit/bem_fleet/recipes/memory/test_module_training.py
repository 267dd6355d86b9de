"""Training of gate and keys on made-up states that can be learned."""

import torch
from bem.memory import MemoryModules
from bem.memory.modules import NOVELTY_FEATURE
from bem_fleet.recipes.memory.module_training import (
    ModuleTraining,
    gate_features,
    train_gate,
    train_keys,
)
from bem_fleet.recipes.memory.training_sentences import TrainingSentences

WIDTH = 24


def sentences(seed: int, count: int = 200) -> TrainingSentences:
    """Return states of which the first half names the sentence; the rest is louder noise."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randn(count, WIDTH // 2, generator=generator)

    def noisy(part: torch.Tensor) -> torch.Tensor:
        noise = 3 * torch.randn(len(part), WIDTH // 2, generator=generator)
        return torch.cat([part, noise], 1)

    rows = torch.arange(0, count, 4)
    states = noisy(names)
    asked = states[:, 0] > 0.5
    return TrainingSentences(
        states, torch.zeros(count, 4), asked, noisy(names[rows]), rows, torch.arange(len(rows))
    )


def test_keys_learn_to_ignore_noise() -> None:
    """Recall on other sentences rises, and is that of the modules that are returned."""
    modules = MemoryModules(WIDTH)
    measured = train_keys(modules, sentences(0), sentences(1), ModuleTraining(key_epochs=30))

    assert measured["key_recall"] > measured["key_recall_untrained"] + 0.1


def test_gate_learns_what_is_asked() -> None:
    """The trained gate ranks what is asked for above the rest, on other sentences too."""
    modules = MemoryModules(WIDTH)
    measured = train_gate(modules, sentences(0), sentences(1), ModuleTraining(gate_steps=100))

    assert measured["gate_auc_untrained"] < 0.7
    assert measured["gate_auc"] > 0.8


def test_novelty_is_that_of_the_pieces_before() -> None:
    """The first piece is new, and a repeated one is not."""
    data = sentences(0, 4)
    states = data.states.clone()
    states[2] = states[1]
    repeated = TrainingSentences(states, data.surface, data.asked, *[data.rows] * 3)
    novelty = gate_features(MemoryModules(WIDTH), repeated)[:, NOVELTY_FEATURE]

    assert novelty[0] == 1
    assert novelty[2] < 1e-5
