"""Lazily allocated memory: a tensor whose pages exist from their first write on.

Pages whose values are not needed any more are offered to the kernel, which takes them when memory
is short (MADV_FREE). Until then a new write finds them in place: dropping them at once
(MADV_DONTNEED) costs a page fault for each 4 KiB written again, 25 ms for 2,048 positions of the
packaged model.
"""

import math
import mmap

import torch
from torch import Tensor

# Linux counts the mapping by its written pages only; Python 3.13 names the flag.
_NO_RESERVE = 0x4000


class LazyZeros:
    """Zeros of a fixed shape; on a CPU a page takes memory when it is written first.

    Huge pages are disabled: with them the first token of a slot of the KV cache waits until the
    whole slot is zeroed, 250 ms at 2,560 positions of the packaged model.

    Args:
        shape: Shape of the tensor.
        like: Tensor that gives data type and device. On another device all memory is allocated now.

    Attributes:
        tensor: The tensor.
    """

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        self._pages: mmap.mmap | None = None
        if like.device.type != "cpu":
            self.tensor = like.new_zeros(shape)
            return
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._pages = mmap.mmap(-1, math.prod(shape) * like.element_size(), flags=flags)
        if no_huge_pages := getattr(mmap, "MADV_NOHUGEPAGE", None):
            self._pages.madvise(no_huge_pages)
        self.tensor = torch.frombuffer(self._pages, dtype=like.dtype).view(shape)

    @property
    def is_lazy(self) -> bool:
        """Whether pages are allocated on first write and can be given back."""
        return self._pages is not None

    def offer(self, first: int, last: int) -> None:
        """Let the kernel take the whole pages of a range of elements when memory is short.

        Their values are undefined until they are written again: the old ones, or zero.

        Args:
            first: Index of the first element in the flattened tensor.
            last: Index behind the last element.
        """
        if self._pages is None:
            return
        size = self.tensor.element_size()
        begin = -(-first * size // mmap.PAGESIZE) * mmap.PAGESIZE
        length = last * size // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if length > 0:
            self._pages.madvise(mmap.MADV_FREE, begin, length)
