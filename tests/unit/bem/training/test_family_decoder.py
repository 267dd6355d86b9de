"""Tests of training in the other families: states and gradients are those of transformers."""

from typing import Any

import pytest
import torch
from bem.backbone import Backbone
from bem.errors import UnsupportedBackboneError
from bem.testing import tiny_backbone
from bem.training.decoder import TrainingDecoder
from bem.training.family_decoder import FamilyDecoder, open_decoder
from torch import Tensor, nn

from tests.support.family_models import family_backbone

FAMILIES = ("qwen2", "qwen3-window", "granite", "smollm3", "olmo2", "phi3", "gemma", "gemma3")
LENGTHS = [20, 1, 7]
IDS = torch.arange(5, 5 + sum(LENGTHS))
SITES = ("model.layers.1.self_attn.o_proj", "model.layers.2.mlp.down_proj")


def random_factors(backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Return factors of rank 2 that take gradients."""
    torch.manual_seed(2)
    found = {}
    for path in SITES:
        layer = backbone.model.get_submodule(path)
        a, b = torch.randn(2, layer.in_features) * 0.1, torch.randn(layer.out_features, 2) * 0.1
        found[path] = a.requires_grad_(), b.requires_grad_()
    return found


def run(
    decoder: TrainingDecoder, factors: dict[str, tuple[Tensor, Tensor]], code: Tensor
) -> Tensor:
    """Return the logits of the packed sequences."""
    hidden = decoder.run_layers(decoder.embed(IDS), LENGTHS, layers=range(1))
    hidden = decoder.run_layers(hidden, LENGTHS, layers=range(1, 3), factors=factors, code=code)
    return decoder.logits(hidden)


def transformers_logits(
    backbone: Backbone, factors: dict[str, tuple[Tensor, Tensor]], code: Tensor
) -> Tensor:
    """Return transformers' logits of each sequence with the low-rank terms."""
    codes = torch.split(code.expand(len(IDS), -1), LENGTHS)
    found = []
    for ids, own in zip(torch.split(IDS, LENGTHS), codes, strict=True):
        handles = []
        for path, (a, b) in factors.items():

            def add(
                _: nn.Module, given: Any, out: Tensor, a: Tensor = a, b: Tensor = b, c: Tensor = own
            ) -> Tensor:
                changed: Tensor = out + (given[0] @ a.T * c) @ b.T
                return changed

            module = backbone.model.get_submodule(path)
            handles.append(module.register_forward_hook(add))
        found.append(backbone.model(ids[None]).logits[0])
        for handle in handles:
            handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("variant", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(variant: str, recompute: bool) -> None:
    """With a code for each token, and with one for all."""
    for code in (torch.rand(len(IDS), 2), torch.ones(1, 2)):
        decoder = FamilyDecoder(family_backbone(variant), recompute=recompute)
        mine, theirs = (random_factors(family_backbone(variant)) for _ in range(2))
        found = run(decoder, mine, code)
        wanted = transformers_logits(family_backbone(variant), theirs, code)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        for logits in (found, wanted):
            torch.autograd.backward(logits.log_softmax(-1)[:, 7].sum())
        for path, factors in mine.items():
            for one, other in zip(factors, theirs[path], strict=True):
                assert one.grad is not None
                assert other.grad is not None
                assert (one.grad - other.grad).norm() < 1e-3 * other.grad.norm()


def test_the_served_model_is_left_as_it_was() -> None:
    """The modules of the backbone are its own again, and compute the same."""
    backbone = family_backbone("qwen2")
    before = backbone.model(IDS[None]).logits
    decoder = FamilyDecoder(backbone)
    run(decoder, random_factors(backbone), torch.ones(1, 2))

    assert type(backbone.layers[1].self_attn.o_proj) is nn.Linear
    torch.testing.assert_close(backbone.model(IDS[None]).logits, before)


def test_positions_are_those_that_are_asked_for() -> None:
    """The last layer returns only the tokens with a loss."""
    decoder = FamilyDecoder(family_backbone("gemma3"))
    with torch.no_grad():
        embedded = decoder.embed(IDS)
        whole = decoder.run_layers(embedded, LENGTHS, layers=range(3))
        wanted = torch.tensor([3, 20, 27])
        part = decoder.run_layers(embedded, LENGTHS, layers=range(3), positions=wanted)

    assert torch.equal(part, whole[wanted])


def test_each_family_has_its_decoder() -> None:
    """Llama's layers keep their packed products; bounded logits are refused by name."""
    plain = open_decoder(tiny_backbone(), compute_dtype=torch.float32)
    other = open_decoder(family_backbone("gemma3"), compute_dtype=torch.float32)

    assert type(plain) is TrainingDecoder
    assert type(other) is FamilyDecoder
    with pytest.raises(UnsupportedBackboneError, match="does not bound logits, as gemma2 does"):
        open_decoder(family_backbone("gemma2"), compute_dtype=torch.float32)


def test_prefixes_are_refused() -> None:
    """Kept prefixes belong to the layers of Llama."""
    decoder = FamilyDecoder(family_backbone("qwen2"))
    with pytest.raises(UnsupportedBackboneError, match="keeps no prefixes"):
        decoder.run_layers(decoder.embed(IDS), LENGTHS, layers=range(1), kept=[])
