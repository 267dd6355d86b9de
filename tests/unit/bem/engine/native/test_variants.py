"""Tests that every variant of the kernels gives the same bits."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine.native import Library, PackedLinear
from bem.engine.native.build import COMPILER, DEFAULT_CACHE, VARIANTS, Variant, find_or_compile
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.family_models import family_backbone
from tests.support.processor import runs_variant
from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.unit.bem.engine.native.kernels import emulated_library
from tests.unit.bem.engine.native.test_layers import decoder_of, states, under, with_adapters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LORA_RANK = 15
ROWS = (1, 2, 3, 4, 5, 8, 13, 16, 19, 27)


def products(library: Library) -> Iterator[Tensor]:
    """Yield products and log-probabilities, of ordinary and of the largest codes."""
    generator = torch.Generator().manual_seed(3)
    for bits, inputs in ((4, 96), (8, 70), (8, 576)):
        weight = torch.randn(37, inputs, generator=generator)
        inputs_of_rows = torch.randn(ROWS[-1], inputs, generator=generator)
        # All codes at the ends of their range: sums of 16 bits are the largest that there are.
        for w, x in ((weight, inputs_of_rows), (weight.sign(), inputs_of_rows.sign())):
            layer = PackedLinear(library, w, bits=bits)
            for rows in ROWS:
                yield layer(x[:rows])
                yield layer.target_logprobs(x[:rows], torch.arange(rows))


def layers(library: Library, folder: Path) -> Iterator[Tensor]:
    """Yield states of several families, and of a model with two adapters."""
    ids = torch.arange(5, 75)[None]
    for family in ("gemma2", "gemma-wide", "granite", "olmo2", "smollm3-window"):
        backbone = replace(family_backbone(family), kernels=library, weight_format="int8")
        yield states(decoder_of(backbone), ids, [0], [0])
    codes = torch.rand(3, 6, 2, RANK, generator=torch.Generator().manual_seed(1))
    for kind in ("int8", "int4"):
        backbone = replace(tiny_backbone(), kernels=library, weight_format=kind)
        bank = with_adapters(backbone, folder / kind)
        yield from under(decoder_of(backbone, bank), bank, codes)


def loras(library: Library) -> Iterator[Tensor]:
    """Yield states with LoRAs of all linear layers, whose factors are float16, and of one prompt.

    The ranks are no multiple of those that the kernels read together.
    """
    for kind in ("int8", "int4"):
        backbone = replace(tiny_backbone(), kernels=library, weight_format=kind)
        decoder = decoder_of(backbone, bank := lora_bank(backbone))
        for half in (bank.lower_codes, bank.row_codes):
            half.set(torch.arange(3)[:, None], torch.ones(3, 1, LORA_RANK))
        yield states(decoder, torch.arange(5, 26).view(3, 7), [0, 1, 2], [0, 0, 0])
        yield states(decoder, torch.arange(3)[:, None], [0, 1, 2], [7, 7, 7])


def lora_bank(backbone: Backbone) -> AdapterBank:
    """Return a bank with three random LoRAs of all linear layers in its slots."""
    bank = AdapterBank(
        backbone, layers=LAYERS, rank=LORA_RANK, slots=3, feature_layer=FEATURE_LAYER, linear=True
    )
    generator = torch.Generator().manual_seed(2)
    for site in (*bank.factors.sites.values(), *bank.linear.sites.values()):
        for slot in range(3):
            a = torch.randn(LORA_RANK, site.A.shape[2], generator=generator)
            b = torch.randn(site.B.shape[1], LORA_RANK, generator=generator)
            site.write(slot, (a, b / 10), 0.1)
    return bank


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_gives_the_same_bits(variant: Variant, tmp_path: Path) -> None:
    """Products and layers of a variant that runs here equal those of emulated AVX-512.

    One that does not run here compiles at least: images have all variants, wherever they are built.
    """
    library_path = find_or_compile(DEFAULT_CACHE.absolute(), shutil.which(COMPILER), variant)
    if not runs_variant(variant):
        pytest.skip(f"the processor lacks the instructions of {variant.name}")
    library = Library(library_path)

    for make in (products, loras, lambda one: layers(one, tmp_path / one.path.name)):
        for ours, emulated in zip(make(library), make(emulated_library()), strict=True):
            assert torch.isfinite(ours).all()
            assert torch.equal(ours, emulated)
