"""Training of the entity state's decay on labels of the memory."""

import torch
from bem.memory import MemoryModules
from bem_fleet.recipes.memory.state_training import (
    StateTraining,
    Strengths,
    state_accuracy,
    train_state,
)

STRENGTHS = Strengths([0.9, 0.95], [0.05, 0.1])
HOW = StateTraining(steps=2, others=60)


def test_decay_is_trained_and_never_kept_if_worse() -> None:
    """The reported accuracy is that of the modules, and no lower than that of the untrained."""
    modules = MemoryModules(8)
    measured = train_state(modules, STRENGTHS, HOW)

    assert measured["state_accuracy"] >= measured["state_accuracy_untrained"]
    assert measured["state_accuracy"] == state_accuracy(modules, STRENGTHS, HOW)
    assert torch.isfinite(modules.decay_logits).all()


def test_gate_that_tells_facts_from_others_helps_the_state() -> None:
    """Facts that are written strongly are read better than those as weak as all others."""
    modules = MemoryModules(8)
    flat, many = Strengths([0.5], [0.5]), StateTraining(others=600)

    assert state_accuracy(modules, STRENGTHS, many) > state_accuracy(modules, flat, many) > 0
