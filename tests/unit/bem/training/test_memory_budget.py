"""Tests of the memory budget: the fastest strategy that fits is used, and nothing is trained."""

import mmap
from pathlib import Path

import pytest
import torch
from bem.errors import MemoryBudgetError
from bem.testing import tiny_backbone
from bem.training.memory_budget import (
    MemoryOptimizer,
    PeakMemory,
    candidate_strategies,
    largest_batch,
    resident_bytes,
)
from bem.training.strategy import Strategy
from bem.training.trainer import AdapterTrainer

from tests.support.tiny_training import examples, training_config

PLENTY = 1 << 40


def test_fastest_that_fits_is_used_and_nothing_moves(tmp_path: Path) -> None:
    """With room for all, every kind is measured and the trainer takes the fastest."""
    trainer = AdapterTrainer(tiny_backbone(), training_config(1), tmp_path)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    measured = MemoryOptimizer(PLENTY).select(trainer, examples())

    assert {one.strategy.recompute for one in measured} == {True, False}
    assert all(one.fits and one.peak_bytes > 1 << 20 for one in measured)
    assert trainer.strategy == min(measured, key=lambda one: one.seconds).strategy
    for name, parameter in trainer.parameters.items():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_budget_ends_the_search_with_what_is_needed(tmp_path: Path) -> None:
    """Where nothing fits, the error names what a step takes, and the trainer stays as it was."""
    previous = Strategy(row_tokens=7)
    trainer = AdapterTrainer(tiny_backbone(), training_config(1), tmp_path, strategy=previous)

    with pytest.raises(MemoryBudgetError, match="at its most frugal"):
        MemoryOptimizer(1).select(trainer, examples())
    assert trainer.strategy == previous
    with pytest.raises(MemoryBudgetError, match="at least 1 of each"):
        MemoryOptimizer(0)


def test_rows_that_cannot_differ_are_measured_once(tmp_path: Path) -> None:
    """Rows shorter than the longest sequence are the same rows."""
    trainer = AdapterTrainer(tiny_backbone(), training_config(1), tmp_path)
    strategies = [Strategy(row_tokens=1), Strategy(row_tokens=2)]

    assert len(MemoryOptimizer(PLENTY, strategies).select(trainer, examples())) == 1


def test_frugal_candidates_come_first() -> None:
    """Recomputed states before previous ones, small rows before large."""
    order = [(one.recompute, one.row_tokens) for one in candidate_strategies((1, 2))]

    assert order == [(True, 1), (True, 2), (False, 1), (False, 2)]


def test_peak_includes_memory_that_is_freed() -> None:
    """An allocation of 64 MiB counts in the peak, also after it is freed."""
    before = resident_bytes()
    # Pages mapped for the test: an allocator may return memory that was resident before.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, 64 << 20, flags=flags)
    with pages as mapped, PeakMemory(torch.device("cpu")) as peak:
        mapped.write(b"1" * (64 << 20))

    assert peak.bytes >= before + (60 << 20)


def test_largest_batch_is_of_the_longest() -> None:
    """No other batch of as many examples has more tokens."""
    data = examples()
    lengths = sorted((len(one.labels) for one in data), reverse=True)

    assert [len(one.labels) for one in largest_batch(data, 2)] == lengths[:2]
