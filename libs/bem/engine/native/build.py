"""Kernel build: compiles the kernels once per machine, tests them, and explains what is missing."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as memoize
from pathlib import Path
from typing import Literal

from bem.engine.native.library import Library
from bem.engine.native.processor import capabilities
from bem.engine.native.self_test import self_test
from bem.errors import KernelsUnavailableError

KernelPreference = Literal["auto", "native", "torch"]
DEFAULT_CACHE = Path(".cache/kernels")
KERNELS = Path(__file__).parent / "kernels"
SOURCE = KERNELS / "api.cpp"
# GCC only: another compiler brings another OpenMP runtime, and with it a second thread pool.
COMPILER = "g++"
WARNINGS = (
    *("-Wall", "-Wextra", "-Werror"),
    # GCC warns about undefined registers in its own intrinsics headers.
    *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
)
LANGUAGE = (
    *("-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    # The result of a row must not depend on how a compiler groups its sums.
    *("-ffp-contract=off", "-fno-math-errno"),
)
OPTIMISATION = ("-O3", *WARNINGS)


@dataclass(frozen=True)
class Variant:
    """The kernels for one set of vector instructions; all variants give the same bits.

    Attributes:
        name: Part of the file name of its library.
        vectors: Name of its header, ``vectors_<vectors>.h``.
        features: Instruction sets that the processor must have, as torch names them.
        targets: Compiler options that allow them.
    """

    name: str
    vectors: str
    features: tuple[str, ...]
    targets: tuple[str, ...]

    def missing(self, capabilities: Mapping[str, object]) -> list[str]:
        """Return the instruction sets that a processor with these capabilities lacks."""
        return [name for name in self.features if not capabilities.get(name)]

    @property
    def header(self) -> str:
        """Compiler option that selects its vectors."""
        return f'-DBEM_VECTORS="vectors_{self.vectors}.h"'

    @property
    def flags(self) -> tuple[str, ...]:
        """All compiler options."""
        return (*LANGUAGE, *OPTIMISATION, *self.targets, self.header)


AVX512 = Variant(
    "avx512",
    "avx512",
    ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "fma3", "f16c"),
    ("-march=x86-64-v4", "-mavx512vnni"),
)
AMX = Variant(
    "amx",
    AVX512.vectors,
    (*AVX512.features, "amx_tile", "amx_int8"),
    (*AVX512.targets, "-mamx-tile", "-mamx-int8"),
)
AVX2 = Variant("avx2", "avx2", ("avx2", "fma3", "f16c"), ("-march=x86-64-v3",))
VARIANTS = (AMX, AVX512, AVX2)
"""All variants, the fastest first."""
_TIMEOUT_S, _DIGEST_CHARS = 180, 16


@dataclass(frozen=True)
class KernelChoice:
    """The kernels that an engine uses.

    Attributes:
        library: Compiled kernels; None where torch's are used.
        reason: Reason of the choice, for the log.
    """

    library: Library | None
    reason: str


def select_kernels(preference: KernelPreference, cache: Path = DEFAULT_CACHE) -> KernelChoice:
    """Return the compiled kernels, or the reason why torch's are used.

    Args:
        preference: ``auto`` takes the compiled kernels where they are available.
        cache: Folder of compiled libraries; it is created if needed.

    Raises:
        KernelsUnavailableError: ``native`` is preferred and not available.
    """
    if preference == "torch":
        return KernelChoice(None, "torch: as configured")
    try:
        library = load(cache.absolute())
    except KernelsUnavailableError as err:
        if preference == "native":
            raise
        return KernelChoice(None, f"torch: {err}")
    return KernelChoice(library, f"native: {library.path.name}")


@memoize
def load(cache: Path) -> Library:
    """Return the tested library of this source, compiled if ``cache`` does not have it.

    Raises:
        KernelsUnavailableError: The processor lacks an instruction set, there is neither a compiled
            library nor a compiler, compilation fails, or the library fails its self-test.
    """
    variant = select_variant(capabilities())
    path = find_or_compile(cache, shutil.which(COMPILER), variant)
    try:
        library = Library(path)
    except OSError as err:
        raise KernelsUnavailableError(f"{path.name} cannot be loaded: {err}") from err
    if failure := self_test(library):
        raise KernelsUnavailableError(f"{path.name} fails its self-test: {failure}")
    return library


def select_variant(present: Mapping[str, object]) -> Variant:
    """Return the fastest variant that a processor runs.

    Args:
        present: Instruction sets by their name, as ``capabilities`` gives them.

    Raises:
        KernelsUnavailableError: Names the instruction sets that the least variant misses.
    """
    for variant in VARIANTS:
        missing = variant.missing(present)
        if not missing:
            return variant
    raise KernelsUnavailableError(f"the processor lacks {', '.join(missing)}")


def find_or_compile(cache: Path, compiler: str | None, variant: Variant) -> Path:
    """Return the compiled library in ``cache``; ``compiler`` makes it if it is missing.

    Raises:
        KernelsUnavailableError: There is no library and no compiler, or compilation fails.
    """
    stem = f"kernels-{variant.name}-{_source_digest(variant)}"
    if compiler is None:
        if compiled := sorted(cache.glob(f"{stem}-*.so")):
            return compiled[0]
        raise KernelsUnavailableError(f"there is no {COMPILER} and no library in {cache}")
    version = run_compiler([compiler, "--version"])
    path = cache / f"{stem}-{hashlib.sha256(version.encode()).hexdigest()[:8]}.so"
    if not path.exists():
        _compile([compiler, *variant.flags], path)
    return path


def run_compiler(command: list[str]) -> str:
    """Run a compiler command and return its output.

    Raises:
        KernelsUnavailableError: The command fails or does not start.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except subprocess.CalledProcessError as err:
        raise KernelsUnavailableError(f"{command[0]} fails: {err.stderr[-2000:]}") from err
    except (OSError, subprocess.TimeoutExpired) as err:
        raise KernelsUnavailableError(f"{command[0]} does not run: {err}") from err
    return done.stdout


def _source_digest(variant: Variant) -> str:
    digest = hashlib.sha256(" ".join(variant.flags).encode())
    for file in sorted(KERNELS.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _compile(command: list[str], path: Path) -> None:
    """Write the library under a temporary name first: other processes never see half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(suffix=".so", dir=path.parent)
    except OSError as err:
        raise KernelsUnavailableError(f"{path.parent} cannot be written: {err}") from err
    os.close(handle)
    try:
        run_compiler([*command, str(SOURCE), "-o", scratch])
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)
