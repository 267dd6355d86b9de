"""Weight-format autotuning: selects the fastest format whose perplexity is near float32's."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bem.backbone import Backbone, WeightFormat
from bem.engine.linear import LinearLayer, quantize
from bem.engine.native.build import DEFAULT_CACHE, KernelChoice, KernelPreference, select_kernels
from bem.engine.native.layers import unsupported_reason
from bem.engine.perplexity import perplexity_ratio
from bem.errors import UnsupportedWeightsError

ROWS = (1, 16, 128)
"""Rows of a single request's decode step, of a full batch's step and of a prefill chunk."""
UNUSED = "torch: the weights are kept as loaded"
# So many copies that none is still in the processor's cache when its turn comes, as in a model.
_COPIES, _ROUNDS = 8, 5
_TOLERANCE = 1.1
"""Formats whose times differ by less, on average, count as equally fast; the smallest is taken."""
MAX_PERPLEXITY_RATIO = 1.01
"""Largest perplexity of a selected format on the packaged text, relative to float32."""


@dataclass(frozen=True)
class FormatChoice:
    """The selected weight format and the reason.

    Attributes:
        kind: Weight format.
        kernels: Kernels that multiply ``int8`` and ``int4`` weights, and why.
        milliseconds: Minimum time of one layer's largest product per format, for each of ``ROWS``;
            empty where the format was given.
        perplexity_ratios: Perplexity of each format that was considered, relative to float32.
    """

    kind: WeightFormat
    kernels: str
    milliseconds: dict[WeightFormat, tuple[float, ...]] = field(default_factory=dict)
    perplexity_ratios: dict[WeightFormat, float] = field(default_factory=dict)


def benchmark_formats(
    backbone: Backbone, kernels: str, ratio_of: Callable[[WeightFormat], float]
) -> FormatChoice:
    """Time each format on a random matrix of the backbone's shape and choose one.

    Formats are considered in the order of their speed; the first whose perplexity is at most
    ``MAX_PERPLEXITY_RATIO`` times float32's is chosen. ``fp32`` ends the search.

    Args:
        backbone: Model with the kernels that the engine will use.
        kernels: Description of these kernels, for the report.
        ratio_of: Returns the perplexity of a format relative to float32.
    """
    times, sizes = _time_formats(backbone)
    left = dict(times)
    ratios: dict[WeightFormat, float] = {}
    while (kind := _fastest(left, sizes)) != "fp32":
        ratios[kind] = round(ratio_of(kind), 5)
        if ratios[kind] <= MAX_PERPLEXITY_RATIO:  # false for NaN
            break
        del left[kind]
    return FormatChoice(kind, kernels, times, ratios)


def _time_formats(
    backbone: Backbone,
) -> tuple[dict[WeightFormat, tuple[float, ...]], dict[WeightFormat, int]]:
    """Return milliseconds for each of ``ROWS``, and bytes, of the formats that can be selected.

    Formats that this machine does not support are left out, and so are those whose outputs depend
    on who else is in the batch: a seeded sample would not repeat. The last bits of torch's float32
    operations depend on the number of rows, and rounding amplifies them: to 8 or 4 bits where the
    project's kernels are missing (torch's ``int4`` even has another product for large batches), and
    to bfloat16 on a CPU.
    """
    config, device = backbone.model.config, backbone.model.device
    weight = torch.randn(2 * config.intermediate_size, config.hidden_size, device=device)
    times: dict[WeightFormat, tuple[float, ...]] = {}
    sizes: dict[WeightFormat, int] = {}
    formats: list[WeightFormat] = ["fp32"]
    if device.type != "cpu":
        formats.append("bf16")
    if backbone.kernels is not None:
        formats += ["int8", "int4"]
    with torch.inference_mode():
        for kind in formats:
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            try:
                layers = [
                    quantize(
                        weight.to(dtype, copy=True),
                        kind,
                        wide_inputs=True,
                        kernels=backbone.kernels,
                    )
                    for _ in range(_COPIES)
                ]
            except UnsupportedWeightsError:
                continue
            sizes[kind] = layers[0].weight_bytes
            inputs = [torch.randn(n, weight.shape[1], dtype=dtype, device=device) for n in ROWS]
            times[kind] = tuple(round(_milliseconds(layers, x), 4) for x in inputs)
    return times, sizes


def _fastest(
    times: Mapping[WeightFormat, Sequence[float]], sizes: Mapping[WeightFormat, int]
) -> WeightFormat:
    """Return the fastest format, or the smallest of those that are equally fast.

    Each time is divided by the best time at the same number of rows. The format with the smallest
    geometric mean of these ratios wins, or the one with the smallest weights of those within a
    tenth of it.

    Example: fp32 takes (0.30, 1.2, 8.0) ms and int8 (0.12, 0.9, 9.0) ms. The best times are (0.12,
    0.9, 8.0); the products of ratios are 2.5 * 1.33 * 1 = 3.33 and 1 * 1 * 1.125. int8 wins.
    """
    best = [min(column) for column in zip(*times.values(), strict=True)]

    def slowdown(kind: WeightFormat) -> float:
        return math.prod(own / least for own, least in zip(times[kind], best, strict=True))

    least = min(slowdown(kind) for kind in times)
    near = [kind for kind in times if slowdown(kind) <= _TOLERANCE ** len(ROWS) * least]
    return min(near, key=sizes.__getitem__)


def select_format(
    backbone: Backbone,
    wanted: WeightFormat | Literal["auto"],
    kernels: KernelPreference = "auto",
    *,
    cache: Path = DEFAULT_CACHE,
    perplexity_memo: Path | None = None,
) -> tuple[Backbone, FormatChoice]:
    """Return the backbone in the wanted weight format, and the choice with its reason.

    Args:
        backbone: Model as loaded.
        wanted: Weight format; ``auto`` takes the fastest that keeps the perplexity.
        kernels: Kernels of ``int8`` and ``int4``; ``auto`` prefers the compiled ones.
        cache: Folder of compiled kernels.
        perplexity_memo: File of measured perplexities, which ``auto`` reads and writes; None
            measures at every call.

    Raises:
        KernelsUnavailableError: ``native`` kernels are wanted and not available.
    """
    uses_kernels = wanted in {"auto", "int8", "int4"}
    choice = select_kernels(kernels, cache) if uses_kernels else KernelChoice(None, UNUSED)
    if choice.library is not None and (reason := unsupported_reason(backbone)):
        choice = KernelChoice(None, f"torch: {reason}")
    backbone = replace(backbone, kernels=choice.library)
    if wanted == "auto":

        def ratio_of(kind: WeightFormat) -> float:
            return perplexity_ratio(replace(backbone, weight_format=kind), perplexity_memo)

        selected = benchmark_formats(backbone, choice.reason, ratio_of)
    else:
        selected = FormatChoice(wanted, choice.reason)
    if selected.kind == "bf16":
        backbone.model.to(torch.bfloat16)
    return replace(backbone, weight_format=selected.kind), selected


def _milliseconds(layers: Sequence[LinearLayer], x: Tensor) -> float:
    """Return the time of one product: the minimum of rounds, because noise only adds to it."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for layer in layers:
            last = layer.forward(x)
        # Reading one number waits for an asynchronous device.
        last[0, 0].item()
        times.append(1e3 * (time.perf_counter() - began) / len(layers))
    return min(times)
