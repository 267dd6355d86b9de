"""Prefix cache: blocks of keys and values, addressed by a hash of what they were computed from.

Adapters with a controller leave the lower half of the model alone, so a block of the lower half
depends only on its tokens and the tokens before it, and they all share it. A LoRA that adapts the
lower half has blocks of its own from its start on. A block of the upper half also depends on the
codes. Its key therefore contains each adapter's version digest, its scale and the tokens that its
code was computed from; a reloaded adapter never finds a stale block. The key of a composition
contains all of its adapters in order, and every key the settings of composition.

Example: block size 32 and a system prompt of 70 tokens that two requests share, one of the base
model and one of adapter ``a``. Tokens 0 to 31 and 32 to 63 form two whole blocks; the last 6 tokens
have no key. The second request finds both lower blocks and computes only the lower half of its
tokens from 64 on. Its upper keys contain ``a``'s version, so the upper half is computed anew. A
third request of ``a`` with the same system prompt finds the upper blocks only if its code is
constant or its whole prompt is equal, because the code is computed from the whole prompt.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from bem.adapters.loaded import LoadedAdapter
from bem.engine.adapter_schedule import AcquiredSegment
from bem.engine.api import Segment

BLOCK_TOKENS = 32


class BlockKeys:
    """Block keys of one sequence, extended as its tokens arrive.

    Keys form a chain: each hash includes the key of the block before it, so that equal keys imply
    equal prefixes.

    Args:
        root: Digest of base model, data type and composition.
        segments: Adapters of the sequence by position.
        prompt: Token ids of the prompt.
    """

    def __init__(
        self, root: str, segments: Sequence[AcquiredSegment], prompt: Sequence[int]
    ) -> None:
        self.lower: list[bytes] = []
        self.upper: list[bytes] = []
        self._root = root.encode()
        self._codes = [(one.segment.start, _code_identity(one, prompt)) for one in segments]
        # An adapter of the lower half owns its blocks there too.
        self._lower_codes = [
            code if one.adapter and one.adapter.adapts_lower else (one.segment.start, "")
            for one, code in zip(segments, self._codes, strict=True)
        ]
        self._tokens: list[int] = []
        self._safety = b""
        self.extend(prompt)

    def add_safety(self, identity: str) -> None:
        """Recompute the keys of the upper half, which depends on the safety adapter too.

        Args:
            identity: Version and strength of the safety adapter.
        """
        tokens, self._tokens = self._tokens, []
        self.lower.clear()
        self.upper.clear()
        self._safety = identity.encode()
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens and compute the keys of the blocks that they complete."""
        self._tokens += tokens
        while (len(self.lower) + 1) * BLOCK_TOKENS <= len(self._tokens):
            begin = len(self.lower) * BLOCK_TOKENS
            end = begin + BLOCK_TOKENS
            previous = (
                (self.lower[-1], self.upper[-1])
                if begin
                else (self._root, self._root + self._safety)
            )
            tokens = _token_bytes(self._tokens[begin:end])
            own = self._codes_in(self._lower_codes, begin, end)
            adapted = any(identity for _, identity in own)
            parts = [tokens, json.dumps(own).encode()] if adapted else [tokens]
            lower = _hash(previous[0], *parts)
            codes = self._codes_in(self._codes, begin, end)
            self.lower.append(lower)
            self.upper.append(_hash(previous[1], lower, json.dumps(codes).encode()))

    def _codes_in(
        self, codes: Sequence[tuple[int, str]], begin: int, end: int
    ) -> list[tuple[int, str]]:
        """Return the codes of a block; starts are relative to it: only its own content counts."""
        return [
            (max(start - begin, 0), identity)
            for index, (start, identity) in enumerate(codes)
            if start < end and self._end(index) > begin
        ]

    def _end(self, index: int) -> float:
        following = self._codes[index + 1 : index + 2]
        return following[0][0] if following else float("inf")


class PrefixCache:
    """Tensor blocks in bounded memory; the least recently used block is evicted first.

    Args:
        limit_bytes: Memory limit of all blocks together; 0 disables the cache.
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
        """Return a block and mark it as used now; None if it is not cached."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def touch(self, keys: Sequence[bytes]) -> None:
        """Mark the blocks of a sequence as used.

        The first block is marked last and so evicted last: later blocks of a chain are useless
        without it.
        """
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)

    def add(self, key: bytes, block: tuple[Tensor, ...]) -> None:
        """Store a block and evict others until the limit holds; oversized blocks are ignored."""
        size = _bytes(block)
        if key in self._blocks or size > self.limit_bytes:
            return
        self._blocks[key] = block
        self.bytes += size
        while self.bytes > self.limit_bytes:
            _, evicted = self._blocks.popitem(last=False)
            self.bytes -= _bytes(evicted)


def _code_identity(acquired: AcquiredSegment, prompt: Sequence[int]) -> str:
    """Return a text that is equal if and only if the codes of two segments are equal."""
    segment = acquired.segment
    if not acquired.members:
        return "base"
    identities = [_member_identity(*one, segment, prompt) for one in acquired.members]
    # The order counts: each member is projected outside those before it.
    return identities[0] if len(identities) == 1 else f"composed({' '.join(identities)})"


def _member_identity(
    adapter: LoadedAdapter, scale: float, segment: Segment, prompt: Sequence[int]
) -> str:
    identity = f"{adapter.version}*{scale!r}"
    if adapter.name == segment.adapter and 0 < segment.rank < adapter.rank:
        identity = f"{identity}#{segment.rank}"
    if adapter.constant_code:  # plain LoRA: the code does not depend on the prompt
        return identity
    source = _hash(_token_bytes(prompt[: segment.code_prefix_tokens])).hex()
    return f"{identity}@{segment.code_prefix_tokens}:{source}"


def _token_bytes(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        # The length separates parts: otherwise ("ab", "c") and ("a", "bc") were equal.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _bytes(block: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in block)
