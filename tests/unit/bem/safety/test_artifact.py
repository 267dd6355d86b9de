"""Tests of safety adapter artifacts."""

from pathlib import Path

import pytest
import torch
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.safety import read_safety, save_safety
from bem.safety.artifact import TENSORS_FILE
from bem.safety.overlay import load_value_head
from bem.testing import tiny_backbone

from tests.support.random_adapters import LAYERS, RANK
from tests.support.random_safety_adapters import BASIS, write_safety


def test_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Card, bases, factors and value head survive; the output factor lies in the basis."""
    backbone = tiny_backbone()
    card = write_safety(tmp_path, backbone)
    artifact = read_safety(tmp_path, base_digest=backbone.digest)
    bases = artifact.site_bases()

    assert artifact.card == card
    assert sorted(artifact.bases) == list(LAYERS)
    assert load_value_head(artifact).full == 2.0
    assert len(artifact.site_factors()) == len(bases) == 4
    for site, (a, b) in artifact.site_factors().items():
        q = bases[site]
        assert (a.shape[0], q.shape[1], b.shape[1]) == (RANK, BASIS, RANK)
        assert torch.allclose(q @ (q.T @ b), b, atol=1e-5)


def test_foreign_or_broken_artifact_is_refused(tmp_path: Path) -> None:
    """Another base, changed tensors, missing tensors and a missing value head are named."""
    backbone = tiny_backbone()
    card = write_safety(tmp_path, backbone)
    artifact = read_safety(tmp_path, base_digest=backbone.digest)
    with pytest.raises(BaseMismatchError, match="the safety adapter was trained for base"):
        read_safety(tmp_path, base_digest="f" * 64)
    path = tmp_path / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        read_safety(tmp_path, base_digest=backbone.digest)

    tensors = {f"{layer}.Q": q for layer, q in artifact.bases.items()}
    save_safety(tmp_path, card, tensors)
    with pytest.raises(ArtifactFormatError, match=r"has no tensor model\.layers\.2"):
        read_safety(tmp_path, base_digest=backbone.digest)
    for site, (a, c) in artifact.factors.items():
        tensors[f"{site}.A"], tensors[f"{site}.C"] = a, c
    save_safety(tmp_path, card, tensors)
    with pytest.raises(ArtifactFormatError, match="has no value head"):
        load_value_head(read_safety(tmp_path, base_digest=backbone.digest))
    save_safety(tmp_path, card, {**tensors, f"{site}.C": c[:-1].contiguous()})
    with pytest.raises(ArtifactFormatError, match=f"rank {RANK} and basis {BASIS}"):
        read_safety(tmp_path, base_digest=backbone.digest)
