"""Gives back memory that an engine's process no longer needs once its weights are in place."""

import ctypes
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

_MAPS = Path("/proc/self/smaps")
_FILE = ".safetensors"
_CUDA = "/site-packages/nvidia/"
_DONTNEED = 4  # MADV_DONTNEED


@dataclass
class _Range:
    """Mapped weights.

    Attributes:
        begin: Their first address.
        end: The first address after them.
        changed: Whether pages were written to: their values are in no file.
    """

    begin: int
    end: int
    changed: bool = False


def leave_file(model: Any, rarely: Tensor | None = None) -> None:
    """Copy what a model still reads from its mapped file, and free what is free.

    A mapped file stays in a process whole as long as one tensor lies in it, although an engine
    holds nearly all of it in another form. Where the system shows no mappings, nothing is copied.

    Args:
        model: A Hugging Face model with its weights in place.
        rarely: A parameter of which only some rows are ever read, as of an embedding. It stays in
            the file, whose pages are left; those that are read come back one by one.
    """
    ranges = _mapped()
    begins = [one.begin for one in ranges]
    left = None
    for parameter in model.parameters():
        place = bisect_right(begins, parameter.data_ptr()) - 1
        if place < 0 or parameter.data_ptr() >= ranges[place].end:
            continue
        if parameter is rarely and not ranges[place].changed:
            left = ranges[place]
        else:
            parameter.data = parameter.data.clone()
    if left:
        _leave(left.begin, left.end)
    if model.device.type == "cpu":
        _leave_code(_CUDA)
    # What loading and packing took and gave back lies scattered in the heap.
    give_back()


def give_back() -> None:
    """Return freed memory to the system, which glibc keeps for as long as the process lives."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _leave_code(folder: str) -> None:
    """Leave the code of libraries in ``folder``: loading ran 100 MB of CUDA's, a CPU runs none.

    Code is never written to, so that what is called after all comes back from its file.
    """
    if not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r-xp" and folder in fields[5]:
            begin, end = fields[0].split("-")
            _leave(int(begin, 16), int(end, 16))


def _leave(begin: int, end: int) -> None:
    length = ctypes.c_size_t(end - begin)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), length, _DONTNEED)


def _mapped() -> list[_Range]:
    """Return the mapped weights by their addresses."""
    if not _MAPS.exists():
        return []
    found: list[_Range] = []
    inside = False
    for line in _MAPS.read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):  # the first line of a mapping
            inside = line.endswith(_FILE)
            if inside:
                begin, end = first.split("-")
                found.append(_Range(int(begin, 16), int(end, 16)))
        elif inside and first == "Anonymous:":
            found[-1].changed = line.split()[1] != "0"
    return sorted(found, key=lambda one: one.begin)
