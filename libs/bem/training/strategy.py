"""Execution strategy of a training step: choices that change its time and memory only.

Compute dtype, row size and recomputation do not change which gradient is computed, apart from
rounding. This module also holds the allocator setting of a training process.
"""

import ctypes
import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import linear

from bem.backbone import Backbone

ComputeDtype = Literal["auto", "float32", "bfloat16"]
# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_INT = 2**31 - 1
_MAX_MMAP_THRESHOLD = 2**30


@dataclass(frozen=True)
class Strategy:
    """Execution strategy of a training step.

    Attributes:
        compute_dtype: Dtype of matrix products and of the residual stream. ``auto`` measures both
            for a bfloat16 backbone and takes the faster one, because bfloat16 is slower on CPUs
            without instructions for it.
        row_tokens: Sequences of a step are packed into rows of at most this many tokens, and the
            gradients of the rows accumulate; a longer sequence is a row of its own.
        recompute: Run each layer again in the backward pass instead of keeping its states
            (gradient checkpointing).
    """

    compute_dtype: ComputeDtype = "auto"
    row_tokens: int = 4096
    recompute: bool = False

    def __post_init__(self) -> None:
        """Raise if no token fits a row."""
        if self.row_tokens < 1:
            raise ValueError(f"row_tokens: {self.row_tokens} is too small; use at least 1")


def select_compute_dtype(backbone: Backbone, requested: ComputeDtype) -> torch.dtype:
    """Return the dtype of matrix products.

    Args:
        backbone: Base model. For a float32 backbone ``auto`` is float32, because bfloat16 would
            round its weights.
        requested: ``auto`` measures one product of the model's own shape in both dtypes.
    """
    if requested != "auto":
        return torch.float32 if requested == "float32" else torch.bfloat16
    if backbone.model.dtype != torch.bfloat16:
        return torch.float32
    config, device = backbone.model.config, backbone.model.device
    shape = (config.intermediate_size, config.hidden_size)
    seconds = {
        dtype: measure_matmul_s(dtype, shape, device) for dtype in (torch.float32, torch.bfloat16)
    }
    return min(seconds, key=lambda dtype: seconds[dtype])


def measure_matmul_s(
    dtype: torch.dtype, shape: tuple[int, int], device: torch.device, *, tokens: int = 1024
) -> float:
    """Return the median time of a matrix product ``[tokens, d_in] x [d_out, d_in]``, seconds.

    Args:
        dtype: Dtype of both matrices.
        shape: Shape of the weight, ``(d_out, d_in)``.
        device: Device to measure.
        tokens: Rows of the input.
    """
    x = torch.ones(tokens, shape[1], dtype=dtype, device=device)
    weight = torch.ones(shape, dtype=dtype, device=device)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        # Reading one number waits for an asynchronous device.
        linear(x, weight)[0, 0].item()
        times.append(time.perf_counter() - began)
    # The first product also pays for lazy initialisation.
    return statistics.median(times[1:])


def retain_freed_memory() -> bool:
    """Make glibc keep freed blocks for reuse; return whether the setting took effect.

    A step frees and allocates gigabytes of activations. By default glibc maps each large block
    anew and the kernel clears it page by page, which costs up to a third of a step on a CPU. The
    setting applies to the whole process, so commands call this and the library never does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    return bool(accepted and mallopt(_M_TRIM_THRESHOLD, _MAX_INT))
