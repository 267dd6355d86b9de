"""Process memory: what an engine's process keeps of weight file, heap and library code."""

import ctypes
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

_MAPS = Path("/proc/self/smaps")
_WEIGHT_FILE = ".safetensors"
_CUDA = "/site-packages/nvidia/"
_DONTNEED = 4  # MADV_DONTNEED


@dataclass
class _Mapping:
    """A mapped weight file.

    Attributes:
        begin: First address.
        end: First address after the mapping.
        modified: Whether pages were written: their values are in no file.
    """

    begin: int
    end: int
    modified: bool = False


def release_weight_file(model: Any, keep: Sequence[Tensor] | None = None) -> None:
    """Drop the pages of a mapped weight file that an engine does not read.

    A mapping keeps the file in the process as long as one tensor lies in it, although a quantised
    engine holds nearly all weights in another form. Parameters in ``keep`` stay in the file; the
    others are copied to the heap, so that a file without kept parameters is unmapped. The pages of
    kept parameters are dropped too and return on demand, shared with all processes that map the
    file. Nothing is copied where the system shows no mappings.

    Args:
        model: Hugging Face model with its weights loaded.
        keep: Parameters that stay in the file, such as an embedding of which few rows are read.
            None keeps all: the engine computes with the weights as loaded.
    """
    mappings = _mapped_weight_files()
    begins = [one.begin for one in mappings]
    kept: list[_Mapping] = []
    for parameter in model.parameters():
        index = bisect_right(begins, parameter.data_ptr()) - 1
        if index < 0 or parameter.data_ptr() >= mappings[index].end:
            continue
        wanted = keep is None or any(parameter is one for one in keep)
        if wanted and not mappings[index].modified:
            kept.append(mappings[index])
        else:
            parameter.data = parameter.data.clone()
    for begin, end in {(one.begin, one.end) for one in kept}:
        _drop_pages(begin, end)
    if model.device.type == "cpu":
        _drop_code_pages(_CUDA)
    # Loading and packing leave freed memory all over the heap.
    trim_heap()


def trim_heap() -> None:
    """Return freed heap memory to the system; glibc keeps it otherwise."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _drop_code_pages(folder: str) -> None:
    """Drop the code pages of libraries in ``folder``.

    Loading touches 100 MB of CUDA's code, of which a CPU runs nothing. Code is never written, so a
    page that is called after all returns from its file.
    """
    if not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r-xp" and folder in fields[5]:
            begin, end = fields[0].split("-")
            _drop_pages(int(begin, 16), int(end, 16))


def _drop_pages(begin: int, end: int) -> None:
    length = ctypes.c_size_t(end - begin)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), length, _DONTNEED)


def _mapped_weight_files() -> list[_Mapping]:
    """Return the mapped weight files, sorted by address."""
    if not _MAPS.exists():
        return []
    mappings: list[_Mapping] = []
    in_weight_file = False
    for line in _MAPS.read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):  # the first line of a mapping
            in_weight_file = line.endswith(_WEIGHT_FILE)
            if in_weight_file:
                begin, end = first.split("-")
                mappings.append(_Mapping(int(begin, 16), int(end, 16)))
        elif in_weight_file and first == "Anonymous:":
            mappings[-1].modified = line.split()[1] != "0"
    return sorted(mappings, key=lambda one: one.begin)
