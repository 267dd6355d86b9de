"""Continuous-batching scheduler: admission to slots, chunked-prefill budget, fairness.

Each engine step computes some chunks of prompts and then one token of every decoding sequence. The
scheduler decides which chunks. While sequences decode, the prefill budget of a step is about the
time of one decode step, so that a long prompt never delays running outputs by more than two steps.
Where more prompts wait than a few, it grows with their number, up to that of a step without
decoding: prompts that were read one by one would decode in small batches.

Every prompt passes the lower half first; the controller of its adapter reads the result, and then
the prompt passes the upper half. A chunk is a range of a prompt in one half.

Example: one sequence decodes, the budget is 64 tokens, and two prompts wait: A with 2,048 tokens
and B, which arrived later, with 30.

- Step 1, turn 1: the oldest prompt, A. Its tokens 0 to 63 pass the lower half; the budget is spent.
- Step 2, turn 2: the prompt with the fewest tokens left, B. Its 30 tokens pass the lower half; A's
  tokens 64 to 95 join the batch, which costs 2 x 32 tokens.
- Step 3, turn 3: A again. Its tokens 96 to 159 pass the lower half.
- Step 4, turn 4: B. Its tokens pass the upper half at the cost of one block, 32 tokens, and B
  decodes from now on. Turn 5 in the same step spends the other 32 on A.

B waited for four decode steps although A needs about 64; and A, the oldest prompt, gets every
second turn whatever arrives, so short prompts never starve it.
"""

import heapq
from collections.abc import Callable, Iterator

from bem.engine.client_shares import ClientShares
from bem.engine.kv_budget import KVBudget
from bem.engine.prefill import PrefillBatch, PrefillChunk, chunk_end
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.engine.sequence import Sequence

# Tokens of one pass through one half of the layers; twice as many in a step without decoding.
PREFILL_TOKENS = 256
# Sequences whose decode step takes as long as `decode_chunk_tokens`, and how many of them a prompt
# counts for that waits beside others.
CHUNK_ROWS, CROWD_ROWS = 8, 4
# Attention makes the chunks of a long prompt more expensive from this position on.
LATE_POSITION, LATE_COST_FACTOR = 1024, 2


class Scheduler:
    """Decides which sequence takes which slot and what each step computes.

    Args:
        slots: Number of slots of the KV cache: sequences that run at once.
        context_tokens: Positions of a slot.
        decode_chunk_tokens: Prefill budget of a step while up to ``CHUNK_ROWS`` sequences decode,
            in tokens through one half of the layers.
        load_cached_blocks: Advances a sequence over the blocks that the prefix cache holds.
        caches_blocks: Whether computed blocks enter the prefix cache.
        budget: Positions that running sequences may hold together.
        shares: Division of slots and rows among clients.

    Attributes:
        running: Sequences with a slot, in the order of their admission.
        shares: Division of slots and rows among clients.
    """

    def __init__(
        self,
        *,
        slots: int,
        context_tokens: int,
        decode_chunk_tokens: int,
        load_cached_blocks: Callable[[Sequence], None],
        caches_blocks: bool,
        budget: KVBudget,
        shares: ClientShares | None = None,
    ) -> None:
        self.running: list[Sequence] = []
        self.shares = shares or ClientShares(0)
        # A heap: attention is cheapest over the lowest slots.
        self._free_slots = list(range(slots))
        self._context_tokens = context_tokens
        self._decode_chunk_tokens = decode_chunk_tokens
        self._load_cached_blocks = load_cached_blocks
        self._caches_blocks = caches_blocks
        self._budget = budget
        self._turn = 0

    @property
    def free_slots(self) -> int:
        """Number of slots without a sequence."""
        return len(self._free_slots)

    def take_slot(self) -> int:
        """Return the lowest free slot, which is no longer free."""
        return heapq.heappop(self._free_slots)

    def add(self, sequence: Sequence) -> None:
        """Start to schedule a sequence."""
        self.running.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Stop scheduling a sequence and free its slot."""
        self.running.remove(sequence)
        heapq.heappush(self._free_slots, sequence.slot)

    def decode_batch(self) -> list[Sequence]:
        """Return the decoding sequences by slot: neighbouring slots are read as one view.

        A sequence for whose next token the budget has no position pauses, and one whose client has
        had its share of the step.
        """
        ready = [
            one
            for one in self.running
            if one.is_decoding and self._budget.grow(one.handle, one.stored_tokens + 1)
        ]
        return sorted(self.shares.rows(ready, self.running), key=lambda one: one.slot)

    def prefill_batches(self) -> Iterator[PrefillBatch]:
        """Yield the prefill batches of one step; the caller computes each before the next."""
        decoding = sum(one.is_decoding for one in self.running)
        budget = self._prefill_budget(decoding, len(self.running) - decoding)
        while budget > 0 and (prompts := [one for one in self.running if not one.is_decoding]):
            # The oldest prompt gets every second turn, so that none starves. The other turns go to
            # the prompt with the fewest tokens left, so that a long one does not delay short ones.
            self._turn += 1
            first = prompts[0] if self._turn % 2 else min(prompts, key=_remaining)
            self._load_cached_blocks(first)
            upper = first.lower_prefilled
            late = decoding and first.computed_in(upper=upper) >= LATE_POSITION
            cost_factor = LATE_COST_FACTOR if late else 1
            batch = self._batch(first, prompts, budget, cost_factor)
            yield batch
            # A short chunk reads all weights too and never costs less than a block.
            tokens = max(BLOCK_TOKENS, batch.padded_tokens * len(batch.chunks))
            budget -= tokens * cost_factor

    def _prefill_budget(self, decoding: int, prompts: int) -> int:
        """Return the tokens of one half that a step may compute beside its decoding sequences.

        They take about the time of a decode step. A crowd of prompts takes more: with few rows a
        decode step reads all weights for little, so that every running output would be later.
        """
        if not decoding:
            return 2 * PREFILL_TOKENS
        rows = max(CHUNK_ROWS, decoding, CROWD_ROWS * prompts)
        return min(2 * PREFILL_TOKENS, self._decode_chunk_tokens * rows // CHUNK_ROWS)

    def _batch(
        self, first: Sequence, prompts: list[Sequence], budget: int, cost_factor: int
    ) -> PrefillBatch:
        """Return the chunk that is due with short chunks of other prompts.

        Alone, each of the short chunks would read all weights again.
        """
        upper = first.lower_prefilled
        limit = max(BLOCK_TOKENS // (2 * cost_factor), min(budget // cost_factor, PREFILL_TOKENS))
        batch = PrefillBatch(
            self._chunk(first, limit, upper=upper),
            upper=upper,
            token_limit=limit,
            context_tokens=self._context_tokens,
        )
        for sequence in prompts:
            if sequence is first or batch.is_full:
                continue
            self._load_cached_blocks(sequence)
            if sequence.lower_prefilled is upper:
                longest = min(limit, batch.max_chunk_tokens)
                batch.try_add(self._chunk(sequence, longest, upper=upper))
        batch.sort_by_slot()
        return batch

    def _chunk(self, sequence: Sequence, limit: int, *, upper: bool) -> PrefillChunk:
        begin = sequence.computed_in(upper=upper)
        schedule = sequence.schedule
        span = schedule.span_at(begin) if upper else schedule.lower_span_at(begin)
        end = chunk_end(begin, limit, sequence.prompt_tokens, span.end)
        key = None
        if self._caches_blocks and begin % BLOCK_TOKENS == 0 and end - begin >= BLOCK_TOKENS:
            keys = sequence.block_keys.upper if upper else sequence.block_keys.lower
            key = keys[begin // BLOCK_TOKENS]
        return PrefillChunk(sequence, begin, end, key, span)


def _remaining(sequence: Sequence) -> int:
    return sequence.remaining_prefill
