"""Tests of prefix states: training behind a cached prefix is training on the whole sequence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training.activation_cache import EncodedExample, TokenPair, encode_sequences
from bem.training.prefix_states import PrefixEncoder
from bem.training.trainer import AdapterTrainer

from tests.support.tiny_training import training_config

PAIRS: list[TokenPair] = [
    ([5, 6, 7, 8, 9, 10, 11], [12, 13]),
    ([20, 21, 22], [23]),
    ([5, 6, 7, 8, 30], [31, 32, 33]),
]
STARTS = [4, 2, 4]


def prefixed_examples(folder: Path) -> list[EncodedExample]:
    """Return the examples behind their prefixes; two of them share one."""
    encoder = PrefixEncoder(tiny_backbone(), first_layer=2, feature_layer=0, folder=folder)
    return encoder.encode(PAIRS, STARTS)


def whole_examples() -> list[EncodedExample]:
    """Return the examples of whole sequences with the adapter's start."""
    encoded = encode_sequences(tiny_backbone(), PAIRS, first_layer=2, feature_layer=0)
    return [replace(one, start=start) for one, start in zip(encoded, STARTS, strict=True)]


def step(data: list[EncodedExample], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of one batch, with factors moved away from zero."""
    trainer = AdapterTrainer(tiny_backbone(), training_config(1), folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    loss = trainer.accumulate_gradients(data)
    return loss, {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}


def test_states_and_features_are_those_of_the_whole_sequences(tmp_path: Path) -> None:
    """What lies behind the prefix is the end of the whole sequence's states."""
    for one, full in zip(prefixed_examples(tmp_path), whole_examples(), strict=True):
        torch.testing.assert_close(one.hidden, full.hidden[full.start :], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.feature, full.feature, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.labels, full.labels[full.start :])


def test_gradients_are_those_of_the_whole_sequences(tmp_path: Path) -> None:
    """Up to the rounding of the kept states to bfloat16."""
    loss, found = step(prefixed_examples(tmp_path), tmp_path / "a")
    expected_loss, expected = step(whole_examples(), tmp_path / "b")

    assert loss == pytest.approx(expected_loss, rel=1e-2)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name


def test_rows_mix_sequences_with_and_without_prefix(tmp_path: Path) -> None:
    """A row's loss is the sum of what its sequences have alone."""
    mixed = [prefixed_examples(tmp_path)[0], replace(whole_examples()[1], start=0)]
    losses = [step([one], tmp_path / "c")[0] * int((one.labels >= 0).sum()) for one in mixed]

    assert step(mixed, tmp_path / "c")[0] * 3 == pytest.approx(sum(losses), rel=1e-4)


def test_a_shared_prefix_is_one_file_that_later_runs_read(tmp_path: Path) -> None:
    """Two prefixes are two files; a second run writes none."""
    first = prefixed_examples(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = prefixed_examples(tmp_path)

    assert len(files) == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    for one, other in zip(first, again, strict=True):
        assert one.prefix is not None
        assert other.prefix is not None
        assert torch.equal(one.prefix, other.prefix)


def test_sites_in_the_first_layer_have_no_prefix(tmp_path: Path) -> None:
    """The error names the layers."""
    with pytest.raises(ValueError, match="feature layer 0"):
        PrefixEncoder(tiny_backbone(), first_layer=0, feature_layer=0, folder=tmp_path)
