"""Embedding head and its artifact."""

from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, BaseMismatchError
from bem.sep.embedding_head import EmbeddingCard, EmbeddingHead, load_head, save_head

BASE = "0" * 64


def save(folder: Path, width: int = 6) -> EmbeddingHead:
    """Write a random head from 6 to 4 dimensions whose card states ``width``."""
    torch.manual_seed(0)
    head = EmbeddingHead(6, 4)
    torch.nn.init.normal_(head.weight)
    head.mean.normal_()
    card = EmbeddingCard(
        base_name="tiny",
        base_digest=BASE,
        feature_layer=2,
        command="test",
        data_digest="1" * 64,
        seed=0,
        width=width,
        dimensions=4,
        front="",
    )
    save_head(folder, card, head)
    return head


def test_embeddings_are_centred_mapped_and_of_length_one(tmp_path: Path) -> None:
    """The common part of states has no direction; fewer dimensions are normalised again."""
    head = save(tmp_path)
    loaded, card = load_head(tmp_path, base_digest=BASE)
    states = torch.randn(5, 6)
    embeddings = loaded(states)
    shifted = EmbeddingHead(6, 6)
    shifted.mean.fill_(3.0)

    assert (card.dimensions, loaded.dimensions) == (4, 4)
    assert torch.equal(embeddings, head(states))
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(5))
    directions = torch.nn.functional.normalize(states, dim=-1)
    assert torch.allclose(shifted(states + 3.0), directions, atol=1e-5)
    two = torch.nn.functional.normalize(embeddings[:, :2], dim=-1)
    assert torch.allclose(loaded(states, 2), two, atol=1e-6)


def test_a_head_of_another_shape_or_model_is_refused(tmp_path: Path) -> None:
    """The error names the dimensions."""
    save(tmp_path, width=7)
    with pytest.raises(ArtifactFormatError, match="7 to 4 dimensions"):
        load_head(tmp_path, base_digest=BASE)
    with pytest.raises(BaseMismatchError):
        load_head(tmp_path, base_digest="2" * 64)
