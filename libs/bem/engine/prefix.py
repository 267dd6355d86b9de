"""The prefix cache: blocks of keys and values by what they were computed from.

A block of the lower half depends on its tokens and those before it alone, so that all adapters
share it. A block of the upper half depends on the codes too: its key holds each adapter's version
digest and scale and the tokens that its code was set from, and an adapter that is loaded anew never
meets a stale block.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from bem.engine.codes import Leased

BLOCK_TOKENS = 32


class BlockKeys:
    """Names the blocks of one row as its tokens come.

    Args:
        root: Names base model, type and composition.
        leases: What the row runs with, by position.
        prompt: Its prompt.
    """

    def __init__(self, root: str, leases: Sequence[Leased], prompt: Sequence[int]) -> None:
        self.lower: list[bytes] = []
        self.upper: list[bytes] = []
        self._root = root.encode()
        self._regimes = [(one.segment.start, _regime(one, prompt)) for one in leases]
        self._tokens: list[int] = []
        self._guard = b""
        self.extend(prompt)

    def guard(self, safety: str) -> None:
        """Name the upper half's blocks anew: all of them depend on ``safety`` too."""
        tokens, self._tokens = self._tokens, []
        self.lower.clear()
        self.upper.clear()
        self._guard = safety.encode()
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens; whole blocks get their keys."""
        self._tokens += tokens
        while (len(self.lower) + 1) * BLOCK_TOKENS <= len(self._tokens):
            begin = len(self.lower) * BLOCK_TOKENS
            end = begin + BLOCK_TOKENS
            before = (
                (self.lower[-1], self.upper[-1])
                if begin
                else (self._root, self._root + self._guard)
            )
            lower = _hash(before[0], _spell(self._tokens[begin:end]))
            inside = [
                (max(start - begin, 0), regime)
                for place, (start, regime) in enumerate(self._regimes)
                if start < end and self._end(place) > begin
            ]
            self.lower.append(lower)
            self.upper.append(_hash(before[1], lower, json.dumps(inside).encode()))

    def _end(self, place: int) -> float:
        after = self._regimes[place + 1 : place + 2]
        return after[0][0] if after else float("inf")


class PrefixCache:
    """Blocks of tensors in bounded memory; the one used longest ago leaves first.

    Args:
        limit_bytes: Of all blocks together; 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._blocks: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def find(self, key: bytes) -> tuple[Tensor, ...] | None:
        """Return a block, which counts as used now."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def touch(self, keys: Sequence[bytes]) -> None:
        """Count a row's blocks as used, the first one last: a chain is of no use without it."""
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)

    def add(self, key: bytes, block: tuple[Tensor, ...]) -> None:
        """Keep a block, and let others go until all fit."""
        size = _bytes(block)
        if key in self._blocks or size > self.limit_bytes:
            return
        self._blocks[key] = block
        self.bytes += size
        while self.bytes > self.limit_bytes:
            _, left = self._blocks.popitem(last=False)
            self.bytes -= _bytes(left)


def _regime(leased: Leased, prompt: Sequence[int]) -> str:
    """Name what a segment's codes depend on."""
    adapter, segment = leased.adapter, leased.segment
    if adapter is None:
        return "base"
    named = f"{adapter.version}*{segment.scale!r}"
    if adapter.constant_code:
        return named
    origin = _hash(_spell(prompt[: segment.coded_at])).hex()
    return f"{named}@{segment.coded_at}:{origin}"


def _spell(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def _hash(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _bytes(block: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in block)
