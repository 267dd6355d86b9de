"""Weight-format autotuning: selects the fastest format whose perplexity is near float32's.

Replicas of one mission should select the same format, because formats answer differently where two
tokens are nearly equally likely. So formats have an order of preference, and a later one must be
faster by more than the measurement's noise.
"""

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
from bem.engine.shard_leader import check_whole, convert_shards
from bem.errors import UnsupportedWeightsError

WantedFormat = WeightFormat | Literal["auto"]
"""Weight format as a setting names it; ``auto`` measures."""
ROWS = (1, 16, 128)
"""Rows of a single request's decode step, of a full batch's step and of a prefill chunk."""
UNUSED = "torch: the weights are kept as loaded"
# So many copies that none is still in the processor's cache when its turn comes, as in a model.
_COPIES, _ROUNDS = 8, 5
PREFERENCE: tuple[WeightFormat, ...] = ("int4", "int8", "bf16", "fp32")
"""Formats from the one that is taken first, where speed does not decide."""
MARGIN = 1.25
"""A format is taken before a preferred one only if it is so many times as fast, on average.

On a CPU with AVX-512 VNNI int4 is 1.2 times as fast as int8, by its single rows alone, so that
int8 would be taken only if the measurement were wrong by half.
"""
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

    Formats are considered in the order of their speed, and of ``PREFERENCE`` where it does not
    differ by ``MARGIN``; the first whose perplexity is at most
    ``MAX_PERPLEXITY_RATIO`` times float32's is chosen. ``fp32`` ends the search.

    Args:
        backbone: Model with the kernels that the engine will use.
        kernels: Description of these kernels, for the report.
        ratio_of: Returns the perplexity of a format relative to float32.
    """
    times = _time_formats(backbone)
    left = dict(times)
    ratios: dict[WeightFormat, float] = {}
    while (kind := _fastest(left)) != "fp32":
        ratios[kind] = round(ratio_of(kind), 5)
        if ratios[kind] <= MAX_PERPLEXITY_RATIO:  # false for NaN
            break
        del left[kind]
    return FormatChoice(kind, kernels, times, ratios)


def _time_formats(backbone: Backbone) -> dict[WeightFormat, tuple[float, ...]]:
    """Return milliseconds for each of ``ROWS`` of the formats that can be selected.

    Formats that this machine does not support are left out, and so are those whose outputs depend
    on who else is in the batch: a seeded sample would not repeat. The last bits of torch's float32
    operations depend on the number of rows, and rounding amplifies them: to 8 or 4 bits where the
    project's kernels are missing (torch's ``int4`` even has another product for large batches), and
    to bfloat16 on a CPU.
    """
    formats: list[WeightFormat] = ["fp32"]
    if backbone.model.device.type != "cpu":
        formats.append("bf16")
    if backbone.kernels is not None:
        formats += ["int8", "int4"]
    with torch.inference_mode():
        layers = {kind: made for kind in formats if (made := _layers(backbone, kind))}
        columns = [_time_rows(backbone, layers, rows) for rows in ROWS]
    return {kind: tuple(column[kind] for column in columns) for kind in layers}


def _layers(backbone: Backbone, kind: WeightFormat) -> list[LinearLayer]:
    """Return copies of a random layer of the backbone's shape; none if it is not supported."""
    config, device = backbone.model.config, backbone.model.device
    weight = torch.randn(2 * config.intermediate_size, config.hidden_size, device=device)
    try:
        return [
            quantize(
                weight.to(_dtype(kind), copy=True), kind, wide_inputs=True, kernels=backbone.kernels
            )
            for _ in range(_COPIES)
        ]
    except UnsupportedWeightsError:
        return []


def _time_rows(
    backbone: Backbone, layers: Mapping[WeightFormat, Sequence[LinearLayer]], rows: int
) -> dict[WeightFormat, float]:
    """Return the milliseconds of a product per format: minima, because noise only adds to them.

    Formats take turns in each round, so that a change of the machine's load meets all of them.
    """
    config, device = backbone.model.config, backbone.model.device
    inputs = {
        kind: torch.randn(rows, config.hidden_size, dtype=_dtype(kind), device=device)
        for kind in layers
    }
    rounds = [
        {kind: _milliseconds(own, inputs[kind]) for kind, own in layers.items()}
        for _ in range(_ROUNDS)
    ]
    return {kind: round(min(one[kind] for one in rounds), 4) for kind in layers}


def _dtype(kind: WeightFormat) -> torch.dtype:
    return torch.bfloat16 if kind == "bf16" else torch.float32


def _fastest(times: Mapping[WeightFormat, Sequence[float]]) -> WeightFormat:
    """Return the first of ``PREFERENCE`` that no other format exceeds in speed by ``MARGIN``.

    Each time is divided by the best time at the same number of rows. The format with the smallest
    geometric mean of these ratios is the fastest. Of the formats whose mean is at most ``MARGIN``
    times as large, the most preferred one wins.

    Example: fp32 takes (0.30, 1.2, 8.0) ms and int8 (0.12, 0.9, 9.0) ms. The best times are (0.12,
    0.9, 8.0); the products of ratios are 2.5 * 1.33 * 1 = 3.33 and 1 * 1 * 1.125. int8 wins.
    """
    best = [min(column) for column in zip(*times.values(), strict=True)]

    def slowdown(kind: WeightFormat) -> float:
        return math.prod(own / least for own, least in zip(times[kind], best, strict=True))

    least = min(slowdown(kind) for kind in times)
    near = [kind for kind in times if slowdown(kind) <= MARGIN ** len(ROWS) * least]
    return min(near, key=PREFERENCE.index)


def select_format(
    backbone: Backbone,
    wanted: WantedFormat,
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
        InvalidSettingError: Several processes hold the model, and ``int8`` or ``int4`` is wanted.
        KernelsUnavailableError: ``native`` kernels are wanted and not available.
    """
    if backbone.shards is not None:
        return _select_loaded(backbone, wanted)
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


def _select_loaded(backbone: Backbone, wanted: WantedFormat) -> tuple[Backbone, FormatChoice]:
    """Return a model in several processes in ``fp32``, or in ``bf16`` if that is wanted."""
    kind: WeightFormat = "fp32" if wanted == "auto" else wanted
    if kind in {"int8", "int4"}:
        check_whole(backbone, f"{kind} weights are")
    if kind == "bf16":
        convert_shards(backbone)
    return replace(backbone, weight_format=kind), FormatChoice(kind, UNUSED)


def _milliseconds(layers: Sequence[LinearLayer], x: Tensor) -> float:
    """Return the time of one product, over one round of all copies."""
    began = time.perf_counter()
    for layer in layers:
        last = layer.forward(x)
    # Reading one number waits for an asynchronous device.
    last[0, 0].item()
    return 1e3 * (time.perf_counter() - began) / len(layers)
