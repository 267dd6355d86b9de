"""The kernels under address and undefined-behaviour sanitizers, in a child process.

The kernels always run over emulated instructions, in which every masked lane is a checked access.
The fastest variant whose instructions the processor has runs too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bem.engine.native.build import COMPILER, SOURCE, VARIANTS, run_compiler

from tests.support.processor import runs_variant
from tests.unit.bem.engine.native.kernels import compile_emulated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parents[5]
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sanitized libraries: emulated, and of the variant that engines here use."""
    folder = tmp_path_factory.mktemp("sanitized")
    paths = [folder / "emulated.so"]
    compile_emulated(paths[0], "-O1", *SANITIZE)
    for variant in list(filter(runs_variant, VARIANTS))[:1]:
        paths.append(folder / f"{variant.name}.so")
        flags = (*variant.flags, "-O1", *SANITIZE)
        run_compiler([COMPILER, *flags, str(SOURCE), "-o", str(paths[-1])])
    return paths


def run(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run all kernels in a process with the sanitizer's runtime."""
    runtime = run_compiler([COMPILER, "-print-file-name=libasan.so"]).strip()
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        # Python frees little at its end; the kernels allocate nothing that outlives a thread.
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "2",
    }
    module = "tests.unit.bem.engine.native.run_kernels"
    return subprocess.run(
        [sys.executable, "-m", module, str(library), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_kernels_are_free_of_memory_errors_and_undefined_behaviour(libraries: list[Path]) -> None:
    """Products, attention, adapters and log-probabilities run without a report."""
    assert shutil.which(COMPILER)
    for library in libraries:
        done = run(library)
        assert done.returncode == 0, done.stderr[-4000:]


def test_a_planted_overflow_is_reported(libraries: list[Path]) -> None:
    """Reading one row too many ends the process with the sanitizer's report.

    The emulated library alone reports it: a compiler does not instrument masked loads.
    """
    done = run(libraries[0], "overflow")

    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
