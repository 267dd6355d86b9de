"""Compilation of kernels at build time."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from docker import compile_kernels


def test_reason_of_the_choice_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder exists before the compiler runs, and the build log says what was chosen."""
    cache = tmp_path / "kernels"
    seen: list[bool] = []

    def select_kernels(_: str, folder: Path) -> SimpleNamespace:
        seen.append(folder.is_dir())
        return SimpleNamespace(reason="native: compiled")

    monkeypatch.setattr(compile_kernels, "select_kernels", select_kernels)

    assert compile_kernels.compile_kernels(cache) == "native: compiled"
    assert seen == [True]
