"""The surface front changes nothing until it is trained, and folds exactly into the weights."""

import pytest
import torch
from bem.errors import ArtifactFormatError
from bem.sep.surface_front import fold_front, fresh_factors, site_paths
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder

IDS = torch.tensor([5, 9, 40, 7, 7, 21])


def test_a_fresh_front_changes_nothing() -> None:
    """B is zero, A is not, and the same seed draws the same A."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(2), 4, seed=3)
    again = fresh_factors(backbone, range(2), 4, seed=3)

    assert sorted(factors) == sorted(site_paths(range(2)))
    for path, (a, b) in factors.items():
        assert torch.equal(a, again[path][0])
        assert bool(a.abs().sum() > 0)
        assert not b.any()


def test_a_folded_front_computes_what_the_factors_compute() -> None:
    """Logits of the folded model are those of the decoder with factors; the version says so."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(2), 4, seed=0)
    torch.manual_seed(1)
    for _, b in factors.values():
        torch.nn.init.normal_(b, std=0.2)
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    code = torch.full((1, 4), 2.0)
    with torch.no_grad():
        embedded = decoder.embed(IDS)
        layers = range(decoder.depth)
        plain = decoder.logits(decoder.run_layers(embedded, [6], layers=layers))
        wanted = decoder.logits(
            decoder.run_layers(embedded, [6], layers=layers, factors=factors, code=code)
        )
    before = backbone.model_version("")
    folded = fold_front(backbone, factors, 2.0, version="f" * 64)
    with torch.no_grad():
        logits = folded.model(IDS[None]).logits[0]

    assert torch.allclose(logits, wanted, atol=1e-3)
    assert not torch.allclose(plain, wanted, atol=1e-2)
    assert folded.model_version("") == f"{before}-{'f' * 12}"


def test_weights_that_the_front_does_not_change_stay_the_same_memory() -> None:
    """Only the front's own weights become copies."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(1), 2, seed=0)
    pages = {name: one.data_ptr() for name, one in backbone.model.named_parameters()}
    fold_front(backbone, factors, 1.0, version="1")
    moved = {
        name.removesuffix(".weight")
        for name, one in backbone.model.named_parameters()
        if one.data_ptr() != pages[name]
    }

    assert moved == set(site_paths(range(1)))


def test_factors_of_another_shape_are_refused() -> None:
    """The error names the site and both shapes."""
    backbone = tiny_backbone()
    factors = fresh_factors(backbone, range(1), 2, seed=0)
    path = site_paths(range(1))[0]
    factors[path] = (torch.zeros(2, 31), factors[path][1])
    with pytest.raises(ArtifactFormatError, match=r"o_proj: factors \(2, 31\)"):
        fold_front(backbone, factors, 1.0, version="1")
