"""Tests of the block transfer between KV cache and prefix cache."""

import torch
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.block_transfer import LOWER, UPPER, BlockTransfer
from bem.engine.counters import EngineCounters
from bem.engine.kv_cache import KVCache
from bem.engine.prefix_cache import BLOCK_TOKENS, PrefixCache
from bem.testing import tiny_backbone

from tests.unit.bem.engine.sequences import make_sequence, prefill_lower

SPLIT = 2


def test_stored_blocks_are_loaded_into_another_slot() -> None:
    """An equal prompt gets the same keys and values, except for the block of its last token."""
    kv_cache = KVCache(tiny_backbone(), slots=2, context_tokens=128)
    prefix_cache, counters = PrefixCache(2**24), EngineCounters()
    binding = AdapterBinding(None, None, torch.device("cpu"))
    transfer = BlockTransfer(prefix_cache, kv_cache, SPLIT, binding, counters)
    tokens = 2 * BLOCK_TOKENS
    first, second = make_sequence(tokens), make_sequence(tokens)
    second.slot = 1
    kv_cache.keys[:, 0].uniform_()
    kv_cache.values[:, 0].uniform_()
    prefill_lower(first, tokens)
    first.computed_tokens = tokens
    transfer.store(first, LOWER)
    transfer.store(first, UPPER)
    transfer.touch(first)
    transfer.load(second)

    assert len(prefix_cache) == 4
    assert second.lower_computed_tokens == tokens
    assert second.computed_tokens == BLOCK_TOKENS
    assert torch.equal(kv_cache.keys[:SPLIT, 1, :, :tokens], kv_cache.keys[:SPLIT, 0, :, :tokens])
    upper = slice(SPLIT, None), slice(None), slice(0, BLOCK_TOKENS)
    assert torch.equal(
        kv_cache.values[upper[0], 1, upper[1], upper[2]],
        kv_cache.values[upper[0], 0, upper[1], upper[2]],
    )
    assert (counters.reused_lower_tokens, counters.reused_tokens) == (tokens, BLOCK_TOKENS)


def test_generated_tokens_are_stored_too() -> None:
    """Blocks that the output completes enter the cache when the sequence ends."""
    kv_cache = KVCache(tiny_backbone(), slots=1, context_tokens=128)
    prefix_cache = PrefixCache(2**24)
    binding = AdapterBinding(None, None, torch.device("cpu"))
    transfer = BlockTransfer(prefix_cache, kv_cache, SPLIT, binding, EngineCounters())
    sequence = make_sequence(BLOCK_TOKENS - 4)
    prefill_lower(sequence, BLOCK_TOKENS)
    sequence.token_ids += [7, 8, 9, 10]
    sequence.computed_tokens = BLOCK_TOKENS
    transfer.store_output(sequence)

    assert len(prefix_cache) == 2
