"""Tests of the artifact of the memory modules."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.memory import MemoryModules
from bem.memory.artifact import (
    MEMORY_FORMAT,
    TENSORS_FILE,
    MemoryCard,
    load_modules,
    save_modules,
    spread_of,
)

DIGEST = "0" * 64
CARD = MemoryCard(
    base_name="tiny",
    base_digest=DIGEST,
    layers=[0],
    kinds=["o_proj"],
    rank=1,
    scale=1.0,
    feature_layer=0,
    command="python -m x",
    data_digest="1" * 64,
    seed=3,
    states=["embeddings"],
    width=8,
)


def test_modules_survive_their_files(tmp_path: Path) -> None:
    """Tensors and card come back; gradients are off."""
    modules = MemoryModules(8, seed=4)
    save_modules(tmp_path, CARD, modules)
    again, card = load_modules(tmp_path, base_digest=DIGEST)

    assert card.width == 8
    assert again.key.weight.equal(modules.key.weight)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_wrong_base_bytes_and_shapes_are_refused(tmp_path: Path) -> None:
    """Another base model, edited tensors and other tensors are errors of their own."""
    save_modules(tmp_path, CARD, MemoryModules(8))
    with pytest.raises(BaseMismatchError):
        load_modules(tmp_path, base_digest="f" * 64)
    file = tmp_path / TENSORS_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactTamperedError):
        load_modules(tmp_path, base_digest=DIGEST)
    MEMORY_FORMAT.write(tmp_path, replace(CARD, width=9), {"x": torch.zeros(1)})
    with pytest.raises(ArtifactFormatError, match="not those of memory modules of width 9"):
        load_modules(tmp_path, base_digest=DIGEST)


def test_spread_is_never_zero() -> None:
    """A constant feature has a deviation that can be divided by."""
    center, spread = spread_of(torch.ones(5, 3))

    assert center.tolist() == [1, 1, 1]
    assert (spread > 0).all()
