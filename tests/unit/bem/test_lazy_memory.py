"""Tests of lazily allocated memory."""

import resource
from pathlib import Path

import pytest
import torch
from bem.lazy_memory import LazyZeros

MIB = 2**20


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from /proc, which only Linux has")
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def test_memory_is_taken_on_write_and_given_back() -> None:
    """Only written pages are resident; dropped ones are zero again."""
    before = resident_bytes()
    zeros = LazyZeros((64, MIB), torch.zeros(1))  # 256 MiB
    allocated = resident_bytes()
    zeros.tensor[:16] = 1.0
    written = resident_bytes()
    zeros.drop(0, 12 * MIB)
    dropped = resident_bytes()

    assert zeros.is_lazy
    assert allocated - before < 16 * MIB
    assert written - allocated > 56 * MIB
    assert written - dropped > 40 * MIB
    assert not zeros.tensor[:12].any()
    assert bool((zeros.tensor[12:16] == 1).all())


def test_more_than_the_machine_has_can_be_laid_out() -> None:
    """Address space is not memory: a context of a large model does not have to fit."""
    zeros = LazyZeros((2**42,), torch.zeros(1))  # 16 TiB

    zeros.tensor[-1] = 1.0
    assert float(zeros.tensor[2**41]) == 0.0


def test_only_whole_pages_of_the_range_are_dropped() -> None:
    """Values beside the range stay, wherever pages begin."""
    zeros = LazyZeros((8 * resource.getpagesize(),), torch.zeros(1))
    zeros.tensor.fill_(1.0)
    zeros.drop(100, len(zeros.tensor) - 100)

    assert bool((zeros.tensor[:100] == 1).all())
    assert bool((zeros.tensor[-100:] == 1).all())
    assert not zeros.tensor.all()
    zeros.drop(10, 20)  # less than a page
