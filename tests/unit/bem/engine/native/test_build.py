"""Where the kernels come from, and what is said where they cannot be had."""

import shutil
import stat
from pathlib import Path

import pytest
import torch
from bem.engine.native import build, choose
from bem.errors import KernelsUnavailableError

from tests.unit.bem.engine.native.kernels import library


def script(folder: Path, text: str) -> str:
    """Write an executable that stands for a compiler."""
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_compiled_library_needs_no_compiler(tmp_path: Path) -> None:
    """What was compiled from this source is found where there is no compiler."""
    made = library().path
    shutil.copy(made, tmp_path)

    assert build.find(tmp_path, None) == tmp_path / made.name


def test_no_compiler_and_no_library_is_said(tmp_path: Path) -> None:
    """Without either the reason names the compiler and the folder."""
    with pytest.raises(KernelsUnavailableError, match=rf"no g\+\+ and no library in {tmp_path}"):
        build.find(tmp_path, None)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    """What the compiler says is the reason, and the cache holds no half-written library."""
    (tmp_path / "bin").mkdir()
    compiler = script(tmp_path / "bin", '[ "$1" = --version ] || { echo no cake >&2; exit 1; }')

    with pytest.raises(KernelsUnavailableError, match="no cake"):
        build.find(tmp_path / "cache", compiler)

    assert not list((tmp_path / "cache").iterdir())


def test_a_processor_without_the_instructions_is_refused() -> None:
    """The reason names what the processor lacks."""
    lacking = {**torch.cpu.get_capabilities(), "avx512_vnni": False}

    with pytest.raises(KernelsUnavailableError, match=r"lacks.*avx512_vnni"):
        build.check_processor(lacking)


def test_a_broken_library_is_the_reason_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``auto`` a library that cannot be loaded leaves torch, and ``native`` refuses."""
    (tmp_path / library().path.name).write_bytes(b"no library")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    assert choose("auto", tmp_path).library is None
    assert "cannot be loaded" in choose("auto", tmp_path).reason
    with pytest.raises(KernelsUnavailableError, match="cannot be loaded"):
        choose("native", tmp_path)


def test_torch_is_taken_as_set(tmp_path: Path) -> None:
    """Whoever sets torch's kernels gets them, and nothing is compiled."""
    choice = choose("torch", tmp_path)

    assert (choice.library, choice.reason) == (None, "torch: as set")
    assert not list(tmp_path.iterdir())


def test_kernels_and_torch_share_one_pool_of_threads() -> None:
    """One OpenMP library serves both, so that there are no more threads than cores."""
    assert library()

    maps = Path("/proc/self/maps").read_text()

    assert len({line.split()[-1] for line in maps.splitlines() if "omp.so" in line}) == 1
