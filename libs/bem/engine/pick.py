"""Which form of the weights is fastest on this machine, measured in under a second."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bem.backbone import Backbone, WeightFormat
from bem.engine.native.build import CACHE, Choice, Wanted, choose
from bem.engine.native.layers import unfit
from bem.engine.weights import Product, hold
from bem.errors import UnsupportedWeightsError

ROWS = (1, 16, 128)
"""A lone request's step, a full batch's step, a piece of a prompt."""
UNUSED = "torch: the weights are kept as loaded"
# So many that none is still in the processor's own cache when its turn comes, as in a model.
_COPIES, _ROUNDS = 8, 5
_NEAR = 1.1
"""Two kinds whose times differ by less, on average, are as fast; the smaller one is taken."""


@dataclass(frozen=True)
class Pick:
    """What was picked and why.

    Attributes:
        kind: How weights are to be held.
        kernels: Which kernels multiply ``int8`` and ``int4``, and why.
        milliseconds: Format to the least time of one layer's largest product, for each of ``ROWS``;
            empty where the kind was given.
    """

    kind: WeightFormat
    kernels: str
    milliseconds: dict[WeightFormat, tuple[float, ...]]


def pick(backbone: Backbone, kernels: str) -> Pick:
    """Time each kind on a matrix of the backbone's own shape.

    The best is the one whose times, over the quickest at the same rows, have the least
    geometric mean, or the smallest of those within a tenth of it; a kind that this machine lacks
    is left out.

    Args:
        backbone: With the kernels that it will run with.
        kernels: What these are, for the report.
    """
    config, device = backbone.model.config, backbone.model.device
    weight = torch.randn(2 * config.intermediate_size, config.hidden_size, device=device)
    found: dict[WeightFormat, tuple[float, ...]] = {}
    sizes: dict[WeightFormat, int] = {}
    with torch.inference_mode():
        for kind in ("fp32", "bf16", "int8", "int4"):
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            try:
                products = [
                    hold(weight.to(dtype, copy=True), kind, halves=True, kernels=backbone.kernels)
                    for _ in range(_COPIES)
                ]
            except UnsupportedWeightsError:
                continue
            sizes[kind] = products[0].held_bytes
            inputs = [torch.randn(n, weight.shape[1], dtype=dtype, device=device) for n in ROWS]
            found[kind] = tuple(round(_milliseconds(products, x), 4) for x in inputs)
    best = [min(times) for times in zip(*found.values(), strict=True)]

    def excess(kind: WeightFormat) -> float:
        return math.prod(mine / least for mine, least in zip(found[kind], best, strict=True))

    least = min(excess(kind) for kind in found)
    near = [kind for kind in found if excess(kind) <= _NEAR ** len(ROWS) * least]
    return Pick(min(near, key=sizes.__getitem__), kernels, found)


def settle(
    backbone: Backbone,
    wanted: WeightFormat | Literal["auto"],
    kernels: Wanted = "auto",
    *,
    cache: Path = CACHE,
) -> tuple[Backbone, Pick]:
    """Return the backbone that an engine will hold as ``wanted``, and what was picked and why.

    Args:
        backbone: As loaded.
        wanted: A kind; ``auto`` measures.
        kernels: Of ``int8`` and ``int4``; ``auto`` takes the compiled ones where they can be had.
        cache: Folder of compiled kernels.

    Raises:
        KernelsUnavailableError: ``native`` kernels are wanted and cannot be had.
    """
    choice = choose(kernels, cache) if wanted in {"auto", "int8", "int4"} else Choice(None, UNUSED)
    if choice.library is not None and (why := unfit(backbone)):
        choice = Choice(None, f"torch: {why}")
    backbone = replace(backbone, kernels=choice.library)
    picked = pick(backbone, choice.reason) if wanted == "auto" else Pick(wanted, choice.reason, {})
    if picked.kind == "bf16":
        backbone.model.to(torch.bfloat16)
    return replace(backbone, weight_format=picked.kind), picked


def _milliseconds(products: Sequence[Product], x: Tensor) -> float:
    """Return the time of one product, the least of rounds over all: others only add to it."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for product in products:
            last = product.forward(x)
        # Reading one number waits for an asynchronous device.
        last[0, 0].item()
        times.append(1e3 * (time.perf_counter() - began) / len(products))
    return min(times)
