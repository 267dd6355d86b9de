"""Loading of front and embedding head."""

from dataclasses import replace
from pathlib import Path

import torch
from bem.sep.embedding_head import EmbeddingCard, EmbeddingHead, save_head
from bem.sep.front_artifact import save_front
from bem.sep.surface_front import fresh_factors
from bem.testing import tiny_backbone
from bem_fleet.services.sep.front_loading import open_embedder, with_front
from prometheus_client import generate_latest

from tests.unit.bem.sep.test_front_artifact import CARD
from tests.unit.services.sep.hosts import tiny_host


def write_front(folder: Path) -> str:
    """Write a front of the tiny model that changes it and return its version."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(2), 4, seed=0)
    for _, b in factors.values():
        torch.nn.init.ones_(b)
    return save_front(folder, replace(CARD, base_digest=backbone.digest), factors).sha256


def write_head(folder: Path, front: str, dimensions: int = 8) -> None:
    """Write a head of the tiny model."""
    card = EmbeddingCard(
        base_name="tiny",
        base_digest=tiny_backbone().digest,
        feature_layer=2,
        command="test",
        data_digest="1" * 64,
        seed=0,
        width=32,
        dimensions=dimensions,
        front=front,
    )
    save_head(folder, card, EmbeddingHead(32, dimensions))


def test_front_is_folded_and_its_version_is_that_of_the_model(tmp_path: Path) -> None:
    """Weights change, and the gauge says so; without a front they stay."""
    version = write_front(tmp_path)
    before = tiny_backbone().model.model.layers[0].mlp.down_proj.weight
    folded = with_front(tiny_backbone(), tmp_path)

    assert folded.folded == version
    assert not torch.equal(folded.model.model.layers[0].mlp.down_proj.weight, before)
    assert "bem_sep_front_missing 0.0" in generate_latest().decode()

    plain = with_front(tiny_backbone(), tmp_path / "none")
    assert plain.folded == ""
    assert torch.equal(plain.model.model.layers[0].mlp.down_proj.weight, before)
    assert "bem_sep_front_missing 1.0" in generate_latest().decode()


async def test_what_is_missing_is_a_warning(tmp_path: Path) -> None:
    """Without artifacts there are two warnings; a head of another front is one."""
    async with tiny_host(tmp_path) as host:
        embedder = open_embedder(host, tmp_path / "none", batch_tokens=64)
        assert embedder.head.dimensions == 32
        assert [one.split(":")[0] for one in host.warnings[-2:]] == ["front", "embedding"]

        write_head(tmp_path, front="another")
        embedder = open_embedder(host, tmp_path, batch_tokens=64)
        assert embedder.head.dimensions == 8
        assert "another front" in host.warnings[-1]
