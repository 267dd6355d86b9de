"""Tests of prefill chunks and their batches."""

import pytest
from bem.engine.prefill import PrefillBatch, PrefillChunk, chunk_end
from bem.engine.prefix_cache import BLOCK_TOKENS

from tests.unit.bem.engine.sequences import make_sequence


def chunk(slot: int, begin: int, tokens: int, key: bytes | None = None) -> PrefillChunk:
    """A chunk of a sequence in one slot."""
    return PrefillChunk(make_sequence(200, slot=slot), begin, begin + tokens, key)


def batch_of(first: PrefillChunk, limit: int = 64) -> PrefillBatch:
    """A batch in the lower half."""
    return PrefillBatch(first, upper=False, token_limit=limit, context_tokens=200)


@pytest.mark.parametrize(
    ("begin", "limit", "prompt", "span", "end"),
    [
        (0, 64, 200, None, 64),
        (0, 50, 200, None, 32),  # only whole blocks enter the prefix cache
        (0, 20, 200, None, 20),
        (64, 64, 100, None, 100),
        (0, 64, 200, 40, 32),
        (32, 64, 200, 40, 40),  # one code per chunk
    ],
)
def test_chunks_end_at_blocks_codes_and_prompts(
    begin: int, limit: int, prompt: int, span: int | None, end: int
) -> None:
    """A chunk ends with its code or prompt, else at the end of a block if it reaches one."""
    assert chunk_end(begin, limit, prompt, span) == end
    assert BLOCK_TOKENS == 32


def test_a_batch_takes_chunks_that_are_cheaper_together() -> None:
    """Similar lengths in near slots are taken; the padded length is the longest one's."""
    batch = batch_of(chunk(1, 0, 20))

    assert batch.try_add(chunk(0, 0, 30))
    assert (batch.padded_tokens, batch.is_full) == (30, True)
    batch.sort_by_slot()
    assert [one.sequence.slot for one in batch.chunks] == [0, 1]


@pytest.mark.parametrize(
    "other",
    [
        chunk(9, 0, 20),  # slots too far apart
        chunk(1, 0, 9),  # mostly padding
        chunk(1, 190, 8),  # padding beyond the context
        chunk(1, 0, 40),  # over the token limit
        chunk(1, 0, 20, b"key"),  # computes a block that the batch computes already
    ],
)
def test_a_batch_refuses_other_chunks(other: PrefillChunk) -> None:
    """A chunk that would cost more in the batch than alone is left for later."""
    batch = batch_of(chunk(0, 0, 20, b"key"))

    assert not batch.try_add(other)
    assert len(batch.chunks) == 1
