"""Chunked prefill: chunks of prompts, and batches of chunks that pass one half together."""

from dataclasses import dataclass

from bem.engine.adapter_schedule import BASE_MODEL, CodeSpan
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.engine.sequence import Sequence


@dataclass(frozen=True, eq=False)
class PrefillChunk:
    """The next tokens of one prompt that pass one half of the layers.

    Attributes:
        sequence: Sequence of the prompt.
        begin: First position.
        end: First position after the chunk.
        block_key: Prefix-cache key of the first block that the chunk will add; None if it adds
            none.
        code_span: Adapter and code of the chunk in this half.
    """

    sequence: Sequence
    begin: int
    end: int
    block_key: bytes | None = None
    code_span: CodeSpan = BASE_MODEL

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.begin


class PrefillBatch:
    """Chunks that pass one half together, padded to the length of the longest.

    Padding writes keys and values behind a sequence's own tokens. Attention never reads them,
    because later tokens overwrite them first.

    Args:
        first: The chunk that is due.
        upper: Whether the chunks pass the upper half.
        token_limit: Limit of all tokens together, padding included.
        context_tokens: Positions of a KV cache slot.

    Attributes:
        chunks: Chunks of the batch, the due one first.
        padded_tokens: Tokens of the longest chunk.
    """

    def __init__(
        self, first: PrefillChunk, *, upper: bool, token_limit: int, context_tokens: int
    ) -> None:
        self.chunks = [first]
        self.upper = upper
        self.padded_tokens = first.tokens
        self._token_limit = token_limit
        self._context_tokens = context_tokens
        self._block_keys = {first.block_key} - {None}

    @property
    def is_full(self) -> bool:
        """Whether one more chunk would exceed the token limit."""
        return (len(self.chunks) + 1) * self.padded_tokens > self._token_limit

    @property
    def max_chunk_tokens(self) -> int:
        """Longest chunk worth adding; a longer one would make more than half of it padding."""
        return 2 * self.chunks[0].tokens

    def try_add(self, chunk: PrefillChunk) -> bool:
        """Add a chunk if computing it together is cheaper; return whether it was added.

        A chunk that would compute a block which the batch already computes is left out: in a later
        step it finds that block in the prefix cache.
        """
        chunks = [*self.chunks, chunk]
        padded = max(self.padded_tokens, chunk.tokens)
        slots = [one.sequence.slot for one in chunks]
        # Attention reads the slots between the lowest and the highest one too.
        scattered = max(slots) - min(slots) + 1 > 2 * len(chunks)
        wasteful = any(2 * one.tokens < padded for one in chunks)
        overflow = any(one.begin + padded > self._context_tokens for one in chunks)
        if len(chunks) * padded > self._token_limit or scattered or wasteful or overflow:
            return False
        if chunk.block_key is not None:
            if chunk.block_key in self._block_keys:
                return False
            self._block_keys.add(chunk.block_key)
        self.chunks, self.padded_tokens = chunks, padded
        return True

    def sort_by_slot(self) -> None:
        """Order the chunks by slot, so that attention reads one view of neighbouring slots."""
        self.chunks.sort(key=lambda chunk: chunk.sequence.slot)


def chunk_end(begin: int, limit: int, prompt_tokens: int, span_end: int | None) -> int:
    """Return where a chunk of one half ends: at most where its code ends, and block-aligned.

    Args:
        begin: First position of the chunk.
        limit: Longest chunk, in tokens.
        prompt_tokens: Length of the prompt.
        span_end: Position at which the code changes; None if it does not change.

    Returns:
        The first position after the chunk. It is the end of a block where the chunk reaches one,
        because only whole blocks enter the prefix cache.
    """
    end = min(begin + limit, prompt_tokens, prompt_tokens if span_end is None else span_end)
    aligned = end // BLOCK_TOKENS * BLOCK_TOKENS
    return aligned if begin < aligned and end < prompt_tokens else end
