"""Difference of two adapters: fields, and weights against the products that are never formed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters.artifact import read_adapter, save_adapter
from bem.errors import BaseMismatchError
from bem.testing import tiny_backbone
from bem_fleet.cli import main
from bem_fleet.cli.adapter_difference import compare_folders

from tests.support.random_adapters import write_adapter


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two random adapters."""
    for seed, name in enumerate(("alpha", "beta")):
        write_adapter(tmp_path, tiny_backbone(), name, seed=seed)
    return tmp_path / "alpha", tmp_path / "beta"


def test_weights_are_compared_as_products(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Cosine and distance are those of all sites' matrices together."""
    one, other = (read_adapter(path, base_digest=tiny_backbone().digest) for path in folders)
    whole = [
        torch.cat(
            [
                (adapter.card.scale * b.float() @ a.float()).flatten()
                for _, (a, b) in sorted(adapter.factors.items())
            ]
        )
        for adapter in (one, other)
    ]
    cosine = float(torch.cosine_similarity(whole[0], whole[1], dim=0))
    distance = float((whole[0] - whole[1]).norm() / whole[0].norm())
    assert main(["adapters", "diff", str(folders[0]), str(folders[1])]) == 0
    text = capsys.readouterr().out

    assert f"cosine {cosine:.4f}, distance {distance:.4f}" in text
    assert "name" in text
    assert "beta" in text


def test_equal_adapters_are_equal(folders: tuple[Path, Path]) -> None:
    """Equal versions need no comparison."""
    assert compare_folders(folders[0], folders[0]).startswith("equal: version")


def test_adapters_of_other_bases_are_refused(folders: tuple[Path, Path]) -> None:
    """Their weights have no common meaning."""
    adapter = read_adapter(folders[1], base_digest=tiny_backbone().digest)
    tensors = {
        f"{path}.{name}": one
        for path, pair in adapter.factors.items()
        for name, one in zip("AB", pair, strict=True)
    } | {f"controller.{name}": one for name, one in adapter.controller.items()}
    save_adapter(folders[1], replace(adapter.card, base_digest="1" * 64), tensors)
    with pytest.raises(BaseMismatchError, match="one base model"):
        compare_folders(*folders)
