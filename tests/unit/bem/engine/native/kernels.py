"""Compiled kernels for tests: this processor's own, or built over emulated instructions."""

import hashlib
import os
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from bem.backbone import Backbone, WeightFormat
from bem.engine.native import Library, select_kernels
from bem.engine.native.build import AVX512, COMPILER, KERNELS, LANGUAGE, SOURCE, WARNINGS
from bem.testing import tiny_backbone
from torch import Tensor
from torch.nn.functional import pad

EMULATION = Path(__file__).parent / "emulated_avx512"
CACHE = Path(__file__).resolve().parents[5] / ".cache/kernels"


# Little optimisation: compiling takes longer than the tests run. Fused multiply-add is inlined.
_VECTORS = all(torch.cpu.get_capabilities().get(name) for name in ("avx2", "fma3", "f16c"))
_FAST = ("-O1", "-march=x86-64-v3") if _VECTORS else ("-O1",)


@cache
def library() -> Library:
    """Return the compiled library; on another processor one over emulated instructions."""
    choice = select_kernels("auto")
    if choice.library is not None:
        return choice.library
    return emulated_library()


@cache
def emulated_library() -> Library:
    """Return the kernels of AVX-512 over scalar code, for any processor."""
    path = CACHE / f"emulated-{_digest()}.so"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}")
        compile_emulated(scratch, *_FAST)
        scratch.replace(path)
    return Library(path)


def compile_emulated(path: Path, *flags: str) -> None:
    """Compile the kernels over scalar code that emulates the AVX-512 intrinsics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        COMPILER,
        *LANGUAGE,
        *WARNINGS,
        *flags,
        AVX512.header,
        f"-I{EMULATION}",
        str(SOURCE),
        "-o",
        str(path),
    ]
    subprocess.run(command, check=True, timeout=300)


def _digest() -> str:
    digest = hashlib.sha256(" ".join((*LANGUAGE, *_FAST)).encode())
    for file in (*sorted(KERNELS.iterdir()), *sorted(EMULATION.iterdir())):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def packed(kind: WeightFormat) -> Backbone:
    """Return the tiny model in a format that the compiled kernels multiply."""
    return replace(tiny_backbone(), kernels=library(), weight_format=kind)


def levels(x: Tensor) -> Tensor:
    """Return each 32 inputs of a row on the scale of 127 levels, before rounding, in float64."""
    groups = pad(x, (0, -x.shape[-1] % 32)).view(-1, 32).double()
    scaled: Tensor = groups / (groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127)
    return scaled.view(*x.shape[:-1], -1)


def tied(x: Tensor) -> Tensor:
    """Return for each row whether an input is so close to a tie that float32 may round it up."""
    scaled = levels(x)
    close: Tensor = (scaled - scaled.floor() - 0.5).abs() < 1e-4
    return close.any(-1)


def rounded(x: Tensor) -> Tensor:
    """Round each 32 inputs of a row to 127 levels of their largest value, in float64."""
    inputs = x.shape[-1]
    groups = pad(x, (0, -inputs % 32)).view(-1, 32).double()
    steps = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    values: Tensor = (groups / steps).round() * steps
    return values.view(*x.shape[:-1], -1)[..., :inputs]
