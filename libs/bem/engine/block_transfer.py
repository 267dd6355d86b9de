"""Block transfer between the KV cache and the prefix cache."""

from torch import Tensor

from bem.engine.adapter_binding import AdapterBinding
from bem.engine.counters import EngineCounters
from bem.engine.kv_cache import KVCache
from bem.engine.prefix_cache import BLOCK_TOKENS, PrefixCache
from bem.engine.sequence import Sequence

LOWER, UPPER = 0, 1


class BlockTransfer:
    """Loads cached blocks into the slots of sequences and stores computed blocks.

    Args:
        prefix_cache: Source and target of blocks.
        kv_cache: Slots of the running sequences.
        first_upper_layer: Layer at which the upper half begins.
        binding: Resolves the safety strength that keys of the upper half contain.
        counters: Receives the numbers of reused tokens.
    """

    def __init__(
        self,
        prefix_cache: PrefixCache,
        kv_cache: KVCache,
        first_upper_layer: int,
        binding: AdapterBinding,
        counters: EngineCounters,
    ) -> None:
        self._prefix_cache = prefix_cache
        self._kv_cache = kv_cache
        self._layers = slice(0, first_upper_layer), slice(first_upper_layer, None)
        self._binding = binding
        self._counters = counters

    def load(self, sequence: Sequence) -> None:
        """Advance a sequence over the blocks that the prefix cache holds.

        The last prompt token is always computed: its logits choose the first output token. So is
        the upper half of a prompt whose tokens are scored, which needs the logits of all of them.
        """
        lower_keys, prompt_tokens = sequence.block_keys.lower, sequence.prompt_tokens
        while block := self._find(lower_keys, sequence.lower_computed_tokens, prompt_tokens):
            keys_values, states = block
            begin = sequence.lower_computed_tokens
            self._kv_cache.write_block(sequence.slot, self._layers[LOWER], begin, keys_values)
            sequence.append_lower_states(states[0], states[1])
            sequence.cached_blocks[LOWER] += 1
            self._counters.reused_lower_tokens += BLOCK_TOKENS
        # The keys of the upper half are final only when the safety strength is known.
        resolved = self._binding.resolve_safety_strength(sequence)
        if not resolved or sequence.handle.request.scores_prompt:
            return
        upper_keys = sequence.block_keys.upper
        limit = min(sequence.lower_computed_tokens, prompt_tokens - 1)
        while block := self._find(upper_keys, sequence.computed_tokens, limit):
            begin = sequence.computed_tokens
            self._kv_cache.write_block(sequence.slot, self._layers[UPPER], begin, block[0])
            sequence.computed_tokens += BLOCK_TOKENS
            sequence.cached_blocks[UPPER] += 1
            sequence.reused_tokens += BLOCK_TOKENS
            self._counters.reused_tokens += BLOCK_TOKENS

    def store(self, sequence: Sequence, half: int) -> None:
        """Copy the completed blocks of one half into the prefix cache.

        Args:
            sequence: The sequence.
            half: ``LOWER`` or ``UPPER``.
        """
        keys = sequence.block_keys.upper if half else sequence.block_keys.lower
        computed = sequence.computed_tokens if half else sequence.lower_computed_tokens
        while sequence.cached_blocks[half] < min(len(keys), computed // BLOCK_TOKENS):
            index = sequence.cached_blocks[half]
            sequence.cached_blocks[half] += 1
            if self._prefix_cache.limit_bytes == 0 or keys[index] in self._prefix_cache:
                continue
            begin, end = index * BLOCK_TOKENS, (index + 1) * BLOCK_TOKENS
            block = self._kv_cache.read_block(sequence.slot, self._layers[half], begin, end)
            states = () if half else (sequence.lower_states[:, begin:end].clone(),)
            self._prefix_cache.add(keys[index], (block, *states))

    def store_output(self, sequence: Sequence) -> None:
        """Store the blocks of a finished sequence, generated tokens included.

        A sequence with evicted entries stores none: its output depends on what was evicted, and its
        places are no longer those of its tokens. The blocks of its prompt were stored before.
        """
        if sequence.evicted_tokens:
            return
        computed = sequence.token_ids[sequence.prompt_tokens : sequence.computed_tokens]
        sequence.block_keys.extend(computed)
        self.store(sequence, LOWER)
        self.store(sequence, UPPER)

    def touch(self, sequence: Sequence) -> None:
        """Mark the blocks of a prompt as used now."""
        self._prefix_cache.touch([*sequence.block_keys.lower, *sequence.block_keys.upper])

    def _find(self, keys: list[bytes], computed: int, limit: int) -> tuple[Tensor, ...] | None:
        if computed % BLOCK_TOKENS or computed + BLOCK_TOKENS > limit:
            return None
        return self._prefix_cache.find(keys[computed // BLOCK_TOKENS])
