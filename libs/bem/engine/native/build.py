"""Compiles the kernels once a machine, and says why where they cannot be had."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path
from typing import Literal

import torch

from bem.engine.native.check import mistakes
from bem.engine.native.library import Library
from bem.errors import KernelsUnavailableError

Wanted = Literal["auto", "native", "torch"]
CACHE = Path(".cache/kernels")
KERNELS = Path(__file__).parent / "kernels"
SOURCE = KERNELS / "api.cpp"
# GCC alone: another compiler brings another OpenMP, and with it a second pool of threads.
COMPILER = "g++"
FLAGS = (
    *("-std=c++17", "-O3", "-march=x86-64-v4", "-mavx512vnni", "-fopenmp", "-shared", "-fPIC"),
    # A row's result must not depend on how a compiler groups its sums.
    *("-ffp-contract=off", "-fno-math-errno"),
    # GCC warns about its own headers' undefined registers.
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
)
NEEDED = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "fma3", "f16c")
_SECONDS, _DIGITS = 180, 16


@dataclass(frozen=True)
class Choice:
    """Which kernels an engine uses.

    Attributes:
        library: The compiled ones; None where torch's are used.
        reason: Why, for the log.
    """

    library: Library | None
    reason: str


def choose(wanted: Wanted, cache: Path = CACHE) -> Choice:
    """Return the compiled kernels, or why torch's are used.

    Args:
        wanted: ``auto`` takes the compiled ones where they can be had.
        cache: Folder of compiled libraries, made if need be.

    Raises:
        KernelsUnavailableError: ``native`` is wanted and cannot be had.
    """
    if wanted == "torch":
        return Choice(None, "torch: as set")
    try:
        library = load(cache.absolute())
    except KernelsUnavailableError as err:
        if wanted == "native":
            raise
        return Choice(None, f"torch: {err}")
    return Choice(library, f"native: {library.path.name}")


@remember
def load(cache: Path) -> Library:
    """Return the library of this source, compiled if ``cache`` does not hold it, and checked.

    Raises:
        KernelsUnavailableError: The processor lacks an instruction, there is neither a compiled
            library nor a compiler, it fails, or what it made computes wrongly.
    """
    check_processor(torch.cpu.get_capabilities())
    path = find(cache, shutil.which(COMPILER))
    try:
        library = Library(path)
    except OSError as err:
        raise KernelsUnavailableError(f"{path.name} cannot be loaded: {err}") from err
    if wrong := mistakes(library):
        raise KernelsUnavailableError(f"{path.name} computes wrongly: {wrong}")
    return library


def check_processor(capabilities: Mapping[str, object]) -> None:
    """Refuse a processor without the instructions that the kernels are made of.

    Raises:
        KernelsUnavailableError: Names those that it lacks.
    """
    if lacking := [name for name in NEEDED if not capabilities.get(name)]:
        raise KernelsUnavailableError(f"the processor lacks {', '.join(lacking)}")


def find(cache: Path, compiler: str | None) -> Path:
    """Return the compiled library in ``cache``; ``compiler`` makes it if it is not there.

    Raises:
        KernelsUnavailableError: There is none and no compiler, or compiling fails.
    """
    stem = f"kernels-{_digest()}"
    if compiler is None:
        if made := sorted(cache.glob(f"{stem}-*.so")):
            return made[0]
        raise KernelsUnavailableError(f"there is no {COMPILER} and no library in {cache}")
    version = _run([compiler, "--version"])
    path = cache / f"{stem}-{hashlib.sha256(version.encode()).hexdigest()[:8]}.so"
    if not path.exists():
        _compile(compiler, path)
    return path


def _digest() -> str:
    whole = hashlib.sha256(" ".join(FLAGS).encode())
    for file in sorted(KERNELS.iterdir()):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:_DIGITS]


def _compile(compiler: str, path: Path) -> None:
    """Write the library; a half-written one is never seen under its name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(suffix=".so", dir=path.parent)
    except OSError as err:
        raise KernelsUnavailableError(f"{path.parent} cannot be written: {err}") from err
    os.close(handle)
    try:
        _run([compiler, *FLAGS, str(SOURCE), "-o", scratch])
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as err:
        raise KernelsUnavailableError(f"{command[0]} fails: {err.stderr[-2000:]}") from err
    except (OSError, subprocess.TimeoutExpired) as err:
        raise KernelsUnavailableError(f"{command[0]} does not run: {err}") from err
    return done.stdout
