"""Tests of the execution strategy and of what it measures."""

from dataclasses import replace

import pytest
import torch
from bem.testing import tiny_backbone
from bem.training import strategy
from bem.training.strategy import (
    Strategy,
    measure_matmul_s,
    retain_freed_memory,
    select_compute_dtype,
)


def test_requested_dtype_is_used_and_float32_is_kept() -> None:
    """A float32 backbone never gets bfloat16 by measurement: its weights would be rounded."""
    backbone = tiny_backbone()

    assert select_compute_dtype(backbone, "bfloat16") == torch.bfloat16
    assert select_compute_dtype(backbone, "float32") == torch.float32
    assert select_compute_dtype(backbone, "auto") == torch.float32


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_auto_takes_the_faster_dtype(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype) -> None:
    """For a bfloat16 backbone both dtypes are measured."""
    backbone = replace(tiny_backbone(), model=tiny_backbone().model.to(torch.bfloat16))
    monkeypatch.setattr(
        strategy, "measure_matmul_s", lambda dtype, *_: 1.0 if dtype == faster else 2.0
    )

    assert select_compute_dtype(backbone, "auto") == faster


def test_matmul_is_measured() -> None:
    """A product takes some time, and a larger one more."""
    small, large = (
        measure_matmul_s(torch.float32, (size, size), torch.device("cpu"), tokens=size)
        for size in (8, 1024)
    )

    assert 0 < small < large


def test_rows_without_room_are_refused() -> None:
    """The error names the field and its limit."""
    with pytest.raises(ValueError, match=r"row_tokens: 0 is too small; use at least 1"):
        Strategy(row_tokens=0)


def test_allocator_setting_is_reported() -> None:
    """With glibc the setting takes effect."""
    assert retain_freed_memory() is True
