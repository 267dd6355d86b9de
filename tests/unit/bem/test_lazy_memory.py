"""Tests of lazily allocated memory."""

import mmap
import resource
from pathlib import Path
from types import SimpleNamespace

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


def offered_bytes() -> int:
    """Return the memory of this process that the kernel takes when it is short."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        pytest.skip("offered memory is read from /proc, which only Linux has")
    line = next(one for one in rollup.read_text().splitlines() if one.startswith("LazyFree:"))
    return int(line.split()[1]) * 1024


def test_memory_is_taken_on_write_and_offered() -> None:
    """Only written pages are resident; a new write takes offered pages back without a fault."""
    before = resident_bytes()
    zeros = LazyZeros((64, MIB), torch.zeros(1))  # 256 MiB
    allocated = resident_bytes()
    zeros.tensor[:16] = 1.0
    written, others = resident_bytes(), offered_bytes()
    zeros.offer(0, 12 * MIB)
    offered = offered_bytes() - others
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    zeros.tensor[:8] = 2.0
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

    assert zeros.is_lazy
    assert allocated - before < 16 * MIB
    assert written - allocated > 56 * MIB
    assert 40 * MIB < offered <= 48 * MIB
    assert faults < 1000  # of 8,192 pages
    assert bool((zeros.tensor[:8] == 2).all())
    assert bool((zeros.tensor[12:16] == 1).all())


def test_more_than_the_machine_has_can_be_laid_out() -> None:
    """Address space is not memory: a context of a large model does not have to fit."""
    zeros = LazyZeros((2**42,), torch.zeros(1))  # 16 TiB

    zeros.tensor[-1] = 1.0
    assert float(zeros.tensor[2**41]) == 0.0


@pytest.mark.parametrize(
    ("first", "last", "pages"),
    [(100, 8000, [(1, 6)]), (10, 20, []), (0, 1024, [(0, 1)]), (1023, 2049, [(1, 1)])],
)
def test_only_whole_pages_of_the_range_are_offered(
    monkeypatch: pytest.MonkeyPatch, first: int, last: int, pages: list[tuple[int, int]]
) -> None:
    """Values beside the range stay, wherever pages begin."""
    page = mmap.PAGESIZE
    zeros = LazyZeros((2 * page,), torch.zeros(1))  # 8 pages
    advised: list[tuple[int, ...]] = []
    monkeypatch.setattr(zeros, "_pages", SimpleNamespace(madvise=lambda *one: advised.append(one)))
    zeros.offer(first, last)

    assert advised == [(mmap.MADV_FREE, at * page, count * page) for at, count in pages]
