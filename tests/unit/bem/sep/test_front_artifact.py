"""Artifact of the surface front."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.sep.front_artifact import CARD_FILE, FrontCard, load_front, save_front
from bem.sep.surface_front import FrontFactors, fresh_factors
from bem.testing import tiny_backbone

CARD = FrontCard(
    base_name="tiny",
    base_digest="0" * 64,
    feature_layer=3,
    command="test",
    data_digest="1" * 64,
    seed=0,
    layers=[0, 1],
    kinds=["o_proj", "down_proj"],
    rank=4,
    scale=2.0,
    objective="self_teaching",
)


def save(folder: Path, card: FrontCard = CARD) -> FrontFactors:
    """Write fresh factors of two layers."""
    factors = fresh_factors(tiny_backbone(), range(2), 4, seed=0)
    save_front(folder, card, factors)
    return factors


def test_a_front_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Factors and card survive the round trip."""
    factors = save(tmp_path)
    loaded, card = load_front(tmp_path, base_digest=CARD.base_digest)

    assert list(loaded) == list(factors)
    assert all(torch.equal(loaded[path][0], factors[path][0]) for path in factors)
    assert (card.scale, card.objective, len(card.sha256)) == (2.0, "self_teaching", 64)


def test_a_layer_without_factors_is_refused(tmp_path: Path) -> None:
    """The card may state no layer that the tensors lack."""
    save(tmp_path, replace(CARD, layers=[0, 1, 2]))
    with pytest.raises(ArtifactFormatError, match=r"layers\.2\."):
        load_front(tmp_path, base_digest=CARD.base_digest)


def test_another_base_model_and_an_edited_card_are_refused(tmp_path: Path) -> None:
    """A front belongs to one model, and its card states its own hash."""
    save(tmp_path)
    with pytest.raises(BaseMismatchError):
        load_front(tmp_path, base_digest="2" * 64)
    path = tmp_path / CARD_FILE
    path.write_text(path.read_text().replace('"scale": 2.0', '"scale": 3.0'))
    with pytest.raises(ArtifactTamperedError):
        load_front(tmp_path, base_digest=CARD.base_digest)
