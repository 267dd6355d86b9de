"""Tests of adapter artifacts: card, tensors, version and verification."""

import json
from pathlib import Path

import pytest
import torch
from bem.adapters.artifact import (
    CARD_FILE,
    read_adapter,
    read_adapter_card,
    read_factors,
    record_metrics,
    save_adapter,
)
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.testing import tiny_backbone

from tests.support.random_adapters import write_adapter


def test_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Card and tensors survive; the version is a function of both."""
    backbone = tiny_backbone()
    card = write_adapter(tmp_path, backbone, "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)

    assert adapter.card == card
    assert len(adapter.factors) == 4
    assert adapter.version == read_adapter(tmp_path / "alpha", base_digest=backbone.digest).version
    # A service runs as another user.
    other = tmp_path / "other"
    other.write_text("")
    files = [path.stat().st_mode for path in (tmp_path / "alpha").iterdir()]
    assert set(files) == {other.stat().st_mode}
    write_adapter(tmp_path, backbone, "alpha", seed=2)
    assert adapter.version != read_adapter(tmp_path / "alpha", base_digest=backbone.digest).version


def test_changed_or_foreign_artifact_is_refused(tmp_path: Path) -> None:
    """Tampered tensors, another base, missing files and unknown card fields each say so."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    folder = tmp_path / "alpha"
    with pytest.raises(BaseMismatchError, match="was trained for"):
        read_adapter(folder, base_digest="f" * 64)
    tensors = folder / "adapter.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(bytes(data))
    with pytest.raises(ArtifactTamperedError, match="its card says"):
        read_adapter(folder, base_digest=backbone.digest)
    tensors.unlink()
    with pytest.raises(ArtifactFormatError, match=r"adapter\.safetensors"):
        read_adapter(folder, base_digest=backbone.digest)
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, "colour": "red"}))
    with pytest.raises(ArtifactFormatError, match="colour"):
        read_adapter(folder, base_digest=backbone.digest)
    with pytest.raises(ArtifactFormatError, match=r"card\.json"):
        read_adapter(tmp_path, base_digest=backbone.digest)


def test_factors_that_do_not_match_the_card_are_refused(tmp_path: Path) -> None:
    """Missing tensors are named, and so is a bad name."""
    backbone = tiny_backbone()
    card = write_adapter(tmp_path, backbone, "alpha", seed=1)
    adapter = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)
    tensors = {f"{site}.A": a for site, (a, _) in adapter.factors.items()}
    save_adapter(tmp_path / "beta", card, tensors)
    with pytest.raises(ArtifactFormatError, match=r"missing \['controller\.code\.bias'.* 8 more"):
        read_adapter(tmp_path / "beta", base_digest=backbone.digest)
    with pytest.raises(ArtifactFormatError, match=r"'\.\./x' is not allowed"):
        write_adapter(tmp_path, backbone, "../x", seed=1)


def test_metrics_are_written_to_the_card(tmp_path: Path) -> None:
    """Measured figures change the card and the version, but not the tensors' hash."""
    backbone = tiny_backbone()
    card = write_adapter(tmp_path, backbone, "alpha", seed=1)
    before = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)
    record_metrics(tmp_path / "alpha", {"f1": 0.5})
    after = read_adapter(tmp_path / "alpha", base_digest=backbone.digest)

    assert read_adapter_card(tmp_path / "alpha").metrics == {"f1": 0.5}
    assert after.card.tensors_sha256 == card.tensors_sha256
    assert after.version != before.version


def test_factors_are_read_again_only_while_the_files_are_unchanged(tmp_path: Path) -> None:
    """The stamp of a verified read allows a second read; a write invalidates it."""
    backbone = tiny_backbone()
    write_adapter(tmp_path, backbone, "alpha", seed=1)
    folder = tmp_path / "alpha"
    adapter = read_adapter(folder, base_digest=backbone.digest)
    again = read_factors(folder, adapter.card, adapter.stamp)

    assert again is not None
    for site, (a, b) in adapter.factors.items():
        assert torch.equal(again[site][0], a)
        assert torch.equal(again[site][1], b)
    record_metrics(folder, {"f1": 0.5})
    assert read_factors(folder, adapter.card, adapter.stamp) is None
