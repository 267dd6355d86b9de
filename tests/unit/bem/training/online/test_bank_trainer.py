"""Tests of the training of a bank."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training.activation_cache import EncodedExample, encode_items
from bem.training.online.bank_trainer import BankTrainer, BankTraining, code_regularization

from tests.support.tiny_training import Item

pytestmark = pytest.mark.slow
CONFIG = BankTraining(layers=(2, 3), rank=4, epochs=8, batch=4, learning_rate=0.01, code_rate=0.05)
FAMILIES = [0, 1] * 4


def examples() -> list[EncodedExample]:
    """Return prompts that two families answer differently."""
    items = [Item(f"say {at // 2}", "yes yes" if at % 2 else "no") for at in range(8)]
    return encode_items(tiny_backbone(), items, first_layer=2, feature_layer=0)


def trained(folder: Path, config: BankTraining = CONFIG) -> BankTrainer:
    """Return a trainer after its training."""
    trainer = BankTrainer(tiny_backbone(), config, 2, folder)
    trainer.run(examples(), FAMILIES)
    return trainer


def curve(folder: Path) -> list[float]:
    """Return the losses of the curve."""
    return [json.loads(line)["loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_families_learn_what_one_code_could_not(tmp_path: Path) -> None:
    """The same prompts get two answers: the loss falls below the entropy of a fair choice."""
    trainer = trained(tmp_path, replace(CONFIG, epochs=20))
    losses = curve(tmp_path)

    assert losses[-1] < 0.3 * losses[0]
    assert not trainer.table()[0].equal(trainer.table()[1])
    assert trainer.bank().width == trainer.table().shape[1] == 16


def test_stopped_training_ends_with_the_same_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed after half of the epochs, factors, codes and curve are those of one run."""
    whole = trained(tmp_path / "whole", replace(CONFIG, epochs=2))
    stopped = BankTrainer(tiny_backbone(), replace(CONFIG, epochs=2), 2, tmp_path / "parts")
    original = stopped.train_step
    calls = []

    def fail_in_the_second_epoch(*arguments: object) -> float:
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stopped, "train_step", fail_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(examples(), FAMILIES)
    resumed = trained(tmp_path / "parts", replace(CONFIG, epochs=2))

    assert resumed.table().equal(whole.table())
    for path, (a, b) in whole.bank().factors.items():
        assert a.equal(resumed.bank().factors[path][0])
        assert b.equal(resumed.bank().factors[path][1])
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_seed_decides(tmp_path: Path) -> None:
    """Another seed gives another bank."""
    one = trained(tmp_path / "0", replace(CONFIG, epochs=1))
    other = trained(tmp_path / "1", replace(CONFIG, epochs=1, seed=1))

    assert not one.table().equal(other.table())


def test_regularization_is_that_of_vicreg() -> None:
    """Variance and covariance of a small table, written out."""
    codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    covariance = codes.T.cov()
    hinge = torch.relu(0.5 - (covariance.diagonal() + 1e-4).sqrt()).mean()
    off = covariance.square().sum() - covariance.diagonal().square().sum()
    expected = CONFIG.variance * hinge + CONFIG.covariance * off / 3

    torch.testing.assert_close(code_regularization(codes, CONFIG), expected)
    assert float(code_regularization(codes[:1], CONFIG)) == 0
