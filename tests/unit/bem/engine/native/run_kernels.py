"""Program that runs every kernel of a library: ``run_kernels LIBRARY [overflow]``.

Under sanitizers a fault ends it with another status than 0. With ``overflow`` it plants one: a
product is told that its input has one row more than was allocated.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bem.adapters.bank import AdapterBank
from bem.engine import GenerationRequest, LLMEngine, Sampling, ScoreRequest
from bem.engine.native import Library, PackedLinear
from bem.engine.native.library import MatrixStruct
from bem.engine.native.self_test import self_test
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.family_models import family_backbone
from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter


def products(library: Library) -> None:
    """Multiply matrices whose sizes are no multiples of a block, a group or a tile."""
    for bits, inputs in ((4, 96), (8, 70)):
        layer = PackedLinear(library, torch.randn(37, inputs), bits=bits)
        for rows in (1, 19):
            x = torch.randn(rows, inputs)
            layer(x)
            layer.target_logprobs(x, torch.arange(rows) % 37)


def layers(library: Library) -> None:
    """Serve prompts of several lengths with and without an adapter, and score a text."""
    for kind in ("int8", "int4"):
        backbone = replace(tiny_backbone(), kernels=library, weight_format=kind)
        bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=2, feature_layer=FEATURE_LAYER)
        with TemporaryDirectory() as folder:
            write_adapter(Path(folder), backbone, "alpha", seed=0)
            bank.load(Path(folder) / "alpha")
        engine = LLMEngine(backbone, bank, max_sequences=3, context_tokens=128)
        for tokens, adapter in ((1, None), (17, "alpha"), (70, "alpha")):
            prompt = tuple(range(5, 5 + tokens))
            request = GenerationRequest(prompt, Sampling(temperature=0), 6, adapter=adapter)
            engine.submit(request, lambda _: None)
        for _ in range(30):
            engine.turn()
        engine.score([ScoreRequest((1, 2, 3), (4, 5))])
        engine.turn()


def families(library: Library) -> None:
    """Serve a prompt with windows, bounds, norms behind the layers, biases, and wide heads."""
    for variant in ("gemma2", "gemma-wide", "granite", "olmo2", "qwen2-window", "smollm3-window"):
        backbone = replace(family_backbone(variant), kernels=library, weight_format="int8")
        engine = LLMEngine(backbone, max_sequences=1, context_tokens=96)
        request = GenerationRequest(tuple(range(5, 75)), Sampling(temperature=0), 3)
        engine.submit(request, lambda _: None)
        for _ in range(8):
            engine.turn()


def plant_overflow(library: Library) -> None:
    """Read one row behind the input of a product."""
    layer = PackedLinear(library, torch.randn(16, 64), bits=8)
    x, y = torch.randn(4, 64), torch.empty(5, 16)
    struct: MatrixStruct = layer.struct
    library.matmul(struct, x.data_ptr(), 5, y.data_ptr(), 1)
    _use(y)


def _use(y: Tensor) -> None:
    sys.stdout.write(f"{float(y.sum())}\n")


if __name__ == "__main__":
    loaded = Library(Path(sys.argv[1]))
    if sys.argv[2:] == ["overflow"]:
        plant_overflow(loaded)
    elif failure := self_test(loaded):
        raise SystemExit(failure)
    products(loaded)
    layers(loaded)
    families(loaded)
