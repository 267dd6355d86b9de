"""Early stopping: the best epoch is kept, and a run that resumes stops at the same place."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training.early_stopping import EarlyStopping
from bem.training.trainer import AdapterTrainer

from tests.support.tiny_training import examples, training_config


def trainer(folder: Path, *, epochs: int = 12, rate: float = 0.01) -> AdapterTrainer:
    """Return a trainer of the tiny model."""
    config = replace(training_config(epochs), learning_rate=rate)
    return AdapterTrainer(tiny_backbone(), config, folder)


def test_training_ends_without_gain_and_keeps_the_best(tmp_path: Path) -> None:
    """A learning rate that overshoots; the tensors are those of the epoch with the least loss."""
    data = examples()
    own = trainer(tmp_path, rate=0.5)
    stopping = EarlyStopping(own, data[3:], patience=2)
    own.run(data[:3], stopping)

    losses = stopping.losses
    assert stopping.has_stopped
    assert len(losses) == own.epoch < 12
    assert stopping.best_epoch == losses.index(min(losses)) + 1 == len(losses) - 2
    best = stopping.best_tensors()
    assert set(best) == set(own.tensors())
    assert any(not torch.equal(best[name], one) for name, one in own.tensors().items())


def test_an_interrupted_run_stops_where_the_whole_one_does(tmp_path: Path) -> None:
    """A kill behind an evaluation repeats the epoch and its evaluation."""
    data = examples()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    own = trainer(whole)
    stopping = EarlyStopping(own, data[3:], patience=3)
    own.run(data[:3], stopping)

    class KilledError(Exception):
        pass

    first = trainer(parts)
    evaluation = EarlyStopping(first, data[3:], patience=3)

    def killed_in_the_second() -> bool:
        evaluation()
        if first.epoch == 2:
            raise KilledError
        return False

    with pytest.raises(KilledError):
        first.run(data[:3], killed_in_the_second)
    second = trainer(parts)
    resumed = EarlyStopping(second, data[3:], patience=3)
    second.run(data[:3], resumed)

    assert resumed.losses == stopping.losses
    assert all(
        torch.equal(one, stopping.best_tensors()[name])
        for name, one in resumed.best_tensors().items()
    )


def test_nothing_is_kept_before_the_first_epoch(tmp_path: Path) -> None:
    """Neither losses nor an end."""
    stopping = EarlyStopping(trainer(tmp_path), examples()[3:], patience=1)

    assert (stopping.losses, stopping.best_epoch, stopping.has_stopped) == ([], 0, False)
