"""How a step is carried out: choices that change its time and memory, never its gradient."""

import ctypes
import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import linear

from bem.backbone import Backbone

Arithmetic = Literal["auto", "float32", "bfloat16"]
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 2**30


@dataclass(frozen=True)
class Strategy:
    """How a training step is carried out.

    Attributes:
        arithmetic: Of products and the residual stream. ``auto`` measures both for a bfloat16
            backbone and takes the faster one: bfloat16 is no gain on every CPU.
        row_tokens: Sequences of a step are packed into rows of at most this many tokens, and
            the rows' gradients accumulate; a longer sequence is a row of its own.
        recompute: Run each layer again in the backward pass instead of keeping its states.
    """

    arithmetic: Arithmetic = "auto"
    row_tokens: int = 4096
    recompute: bool = False

    def __post_init__(self) -> None:
        """Refuse rows that hold nothing."""
        if self.row_tokens < 1:
            raise ValueError(f"row_tokens must be at least 1, is {self.row_tokens}")


def settle_arithmetic(backbone: Backbone, wanted: Arithmetic) -> torch.dtype:
    """Return the dtype of products.

    Args:
        backbone: A float32 backbone settles ``auto`` at float32: its weights would be rounded.
        wanted: ``auto`` compares one product of the model's own shape in both types.
    """
    if wanted != "auto":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    if backbone.model.dtype != torch.bfloat16:
        return torch.float32
    config, device = backbone.model.config, backbone.model.device
    shape = (config.intermediate_size, config.hidden_size)
    seconds = {
        dtype: product_seconds(dtype, shape, device) for dtype in (torch.float32, torch.bfloat16)
    }
    return min(seconds, key=lambda dtype: seconds[dtype])


def product_seconds(
    dtype: torch.dtype, shape: tuple[int, int], device: torch.device, *, tokens: int = 1024
) -> float:
    """Return the median time of ``[tokens, d_in] x [d_out, d_in]``, with ``shape`` the weight's."""
    x = torch.ones(tokens, shape[1], dtype=dtype, device=device)
    weight = torch.ones(shape, dtype=dtype, device=device)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        # Reading one number waits for an asynchronous device.
        linear(x, weight)[0, 0].item()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed blocks instead of handing them back; True where that is known.

    A step frees and allocates gigabytes of states. By default each large block is mapped anew
    and the kernel clears it page by page, which costs up to a third of a step on a CPU. It is
    the whole process's setting: a command calls this, the library never does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _LARGEST_INT))
