"""Tests of the kernel build: where kernels come from, and the reason where there are none."""

import stat
from pathlib import Path

import pytest
from bem.engine.native import build, select_kernels
from bem.errors import KernelsUnavailableError

from tests.unit.bem.engine.native.kernels import library


def script(folder: Path, text: str) -> str:
    """Write an executable that stands for a compiler."""
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A library in a cache; its compiler writes an empty file."""
    (tmp_path / "bin").mkdir()
    compiler = script(tmp_path / "bin", '[ "$1" = --version ] || { shift $(($# - 1)); : > "$1"; }')
    return build.find_or_compile(tmp_path / "cache", compiler, build.AVX2)


def test_a_compiled_library_needs_no_compiler(compiled: Path) -> None:
    """A library compiled from this source is found where there is no compiler."""
    assert build.find_or_compile(compiled.parent, None, build.AVX2) == compiled


def test_a_library_of_another_variant_is_not_taken(compiled: Path) -> None:
    """A library with instructions that this processor may lack does not count as found."""
    with pytest.raises(KernelsUnavailableError, match="no library"):
        build.find_or_compile(compiled.parent, None, build.AVX512)


def test_a_missing_compiler_and_library_are_named(tmp_path: Path) -> None:
    """Without either, the reason names the compiler and the folder."""
    with pytest.raises(KernelsUnavailableError, match=rf"no g\+\+ and no library in {tmp_path}"):
        build.find_or_compile(tmp_path, None, build.AVX2)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    """The compiler's message is the reason, and the cache contains no half-written library."""
    (tmp_path / "bin").mkdir()
    compiler = script(tmp_path / "bin", '[ "$1" = --version ] || { echo no cake >&2; exit 1; }')

    with pytest.raises(KernelsUnavailableError, match="no cake"):
        build.find_or_compile(tmp_path / "cache", compiler, build.AVX2)

    assert not list((tmp_path / "cache").iterdir())


def test_a_processor_without_the_instructions_is_refused() -> None:
    """The reason names what the processor lacks of the least that is needed; ARM lacks all."""
    with pytest.raises(KernelsUnavailableError, match=r"the processor lacks avx2$"):
        build.select_variant({"fma3": True, "f16c": True})
    with pytest.raises(KernelsUnavailableError, match="lacks avx2, fma3, f16c"):
        build.select_variant({"sve": True, "dot": True})


@pytest.mark.parametrize(
    ("missing", "variant"),
    [
        ((), build.AMX),
        (("amx_int8",), build.AVX512),
        (("avx512_vnni",), build.AVX2),
        (("avx512_f", "f16c"), None),
    ],
)
def test_the_processor_selects_the_variant(
    missing: tuple[str, ...], variant: build.Variant | None
) -> None:
    """The fastest variant of which no instruction set is missing is taken."""
    every = {name: True for one in build.VARIANTS for name in one.features}
    capabilities = every | dict.fromkeys(missing, False)

    if variant is None:
        with pytest.raises(KernelsUnavailableError, match="lacks f16c"):
            build.select_variant(capabilities)
    else:
        assert build.select_variant(capabilities) is variant


def test_a_broken_library_is_the_reason_for_torch(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``auto`` a library that cannot be loaded selects torch, and ``native`` refuses."""
    monkeypatch.setattr(build, "select_variant", lambda _: build.AVX2)
    monkeypatch.setenv("PATH", str(compiled.parent / "empty"))

    assert select_kernels("auto", compiled.parent).library is None
    assert "cannot be loaded" in select_kernels("auto", compiled.parent).reason
    with pytest.raises(KernelsUnavailableError, match="cannot be loaded"):
        select_kernels("native", compiled.parent)


def test_torch_is_selected_as_configured(tmp_path: Path) -> None:
    """With torch's kernels configured nothing is compiled."""
    choice = select_kernels("torch", tmp_path)

    assert (choice.library, choice.reason) == (None, "torch: as configured")
    assert not list(tmp_path.iterdir())


def test_kernels_and_torch_share_one_thread_pool() -> None:
    """One OpenMP runtime serves both, so that there are no more threads than cores."""
    assert library()

    maps = Path("/proc/self/maps").read_text()

    assert len({line.split()[-1] for line in maps.splitlines() if "omp.so" in line}) == 1
