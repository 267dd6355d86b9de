"""Tests of the artifact of the learned cache policy."""

from pathlib import Path

import pytest
import torch
from bem.cache_policy.artifact import (
    CARD_FILE,
    CachePolicyCard,
    load_scorer,
    save_scorer,
)
from bem.cache_policy.learned import CacheScorer
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError

BASE = "0" * 64


def save(folder: Path, layers: int = 2) -> CacheScorer:
    """Write a scorer of two layers whose card states ``layers``."""
    scorer = CacheScorer(2, 2, window=8)
    torch.nn.init.normal_(scorer.heads)
    card = CachePolicyCard(
        base_name="tiny",
        base_digest=BASE,
        feature_layer=0,
        command="test",
        data_digest="1" * 64,
        seed=0,
        layers=layers,
        kv_heads=2,
        window=8,
    )
    save_scorer(folder, card, scorer)
    return scorer


def test_a_scorer_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Weights and window survive the round trip."""
    scorer = save(tmp_path)
    loaded, card = load_scorer(tmp_path, base_digest=BASE)

    assert torch.equal(loaded.heads, scorer.heads)
    assert (loaded.window, card.layers) == (8, 2)
    assert not any(one.requires_grad for one in loaded.parameters())


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    """A scorer knows the layers and heads of one model only."""
    save(tmp_path)
    with pytest.raises(BaseMismatchError):
        load_scorer(tmp_path, base_digest="2" * 64)


def test_an_edited_card_is_refused(tmp_path: Path) -> None:
    """The card states its own hash."""
    save(tmp_path)
    path = tmp_path / CARD_FILE
    path.write_text(path.read_text().replace('"window": 8', '"window": 9'))
    with pytest.raises(ArtifactTamperedError):
        load_scorer(tmp_path, base_digest=BASE)


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    """The error names the file and what was expected."""
    save(tmp_path, layers=3)
    with pytest.raises(ArtifactFormatError, match="3 layers and 2 KV heads"):
        load_scorer(tmp_path, base_digest=BASE)
