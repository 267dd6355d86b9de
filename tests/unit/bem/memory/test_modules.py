"""Tests of the learned parts before training."""

import torch
from bem.memory.modules import NOVELTY_FEATURE, MemoryModules


def test_untrained_gate_prefers_entities_digits_and_novelty() -> None:
    """Before training salience is a function of surface features alone."""
    modules = MemoryModules(8)
    surface = torch.zeros(4, 4)
    for row, column in enumerate((0, 1, NOVELTY_FEATURE)):
        surface[row, column] = 0.5
    logits = modules.gate(torch.randn(4, 8), surface)

    assert (logits[:3] > logits[3]).all()
    assert modules.novelty_weight() > 0


def test_keys_are_unit_vectors_of_a_seed() -> None:
    """The same seed gives the same projection."""
    states = torch.randn(5, 8)
    keys = MemoryModules(8, seed=1).keys(states)

    torch.testing.assert_close(keys.norm(dim=1), torch.ones(5))
    assert torch.equal(keys, MemoryModules(8, seed=1).keys(states))
    assert not torch.equal(keys, MemoryModules(8, seed=2).keys(states))


def test_decay_and_confidences_are_in_their_ranges() -> None:
    """Decays lie in [0.999, 1]; confidences rise with every feature and lie in [0, 1]."""
    modules = MemoryModules(8)
    low, high = modules.confidences(torch.tensor([[0.0] * 4, [1.0] * 4]))

    assert ((modules.decay() >= 0.999) & (modules.decay() <= 1)).all()
    assert 0 <= low < 0.1
    assert 0.9 < high <= 1
    assert modules.coverages(torch.zeros(3, 3)).shape == (3,)


def test_standardize_uses_the_training_data() -> None:
    """States are centred and scaled by the buffers."""
    modules = MemoryModules(2)
    modules.center.copy_(torch.tensor([1.0, 2.0]))
    modules.spread.copy_(torch.tensor([2.0, 4.0]))

    assert modules.standardize(torch.tensor([[3.0, 6.0]])).tolist() == [[1.0, 1.0]]
