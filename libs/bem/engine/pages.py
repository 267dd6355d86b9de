"""Gives back memory that an engine's process no longer needs once its weights are in place."""

import ctypes
from bisect import bisect_right
from pathlib import Path

from torch import nn

_MAPS = Path("/proc/self/maps")
_FILE = ".safetensors"


def leave_file(model: nn.Module) -> None:
    """Copy what a model still reads from its mapped file, and free what is free.

    A mapped file stays in a process whole as long as one tensor lies in it, although an engine
    holds nearly all of it in another form. Where the system shows no mappings, nothing is copied.
    """
    ranges = _mapped()
    begins = [begin for begin, _ in ranges]
    for parameter in model.parameters():
        place = bisect_right(begins, parameter.data_ptr()) - 1
        if place >= 0 and parameter.data_ptr() < ranges[place][1]:
            parameter.data = parameter.data.clone()
    # What loading and packing took and gave back lies scattered in the heap.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _mapped() -> list[tuple[int, int]]:
    """Return the address ranges of mapped weights, lowest first."""
    if not _MAPS.exists():
        return []
    found = []
    for line in _MAPS.read_text().splitlines():
        if line.endswith(_FILE):
            begin, end = line.split(maxsplit=1)[0].split("-")
            found.append((int(begin, 16), int(end, 16)))
    return sorted(found)
