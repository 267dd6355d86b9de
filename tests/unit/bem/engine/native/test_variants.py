"""Tests that every variant of the kernels gives the same bits."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.engine.native import Library, PackedLinear
from bem.engine.native.build import COMPILER, DEFAULT_CACHE, VARIANTS, Variant, find_or_compile
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.family_models import family_backbone
from tests.support.processor import runs_variant
from tests.support.random_adapters import RANK
from tests.unit.bem.engine.native.kernels import emulated_library
from tests.unit.bem.engine.native.test_layers import decoder_of, states, under, with_adapters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = (1, 2, 3, 4, 5, 16, 19)


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


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_gives_the_same_bits(variant: Variant, tmp_path: Path) -> None:
    """Products and layers of a variant that runs here equal those of emulated AVX-512.

    One that does not run here compiles at least: images have all variants, wherever they are built.
    """
    library_path = find_or_compile(DEFAULT_CACHE.absolute(), shutil.which(COMPILER), variant)
    if not runs_variant(variant):
        pytest.skip(f"the processor lacks the instructions of {variant.name}")
    library = Library(library_path)

    for make in (products, lambda one: layers(one, tmp_path / one.path.name)):
        for ours, emulated in zip(make(library), make(emulated_library()), strict=True):
            assert torch.isfinite(ours).all()
            assert torch.equal(ours, emulated)
