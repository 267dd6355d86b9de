"""KV cache compression: a cache policy evicts entries of a complete prompt from its slot.

The prompt is computed with its whole cache, and its blocks enter the prefix cache as ever. When its
first output token is known, each layer's entries are ranked, what stays moves to the front of the
slot, and the pages behind it are given back. Output tokens attend to what is left and are all kept.

Queries are not stored while a prompt is computed. For policies that read attention the last tokens
pass the layers once more; this writes their keys and values again, to the same places.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bem.cache_policy import Entries, EvictionPolicy, kept_entries, kept_positions
from bem.engine.adapter_binding import AdapterBinding
from bem.engine.counters import EngineCounters
from bem.engine.decoder import Decoder, ForwardPlan
from bem.engine.kv_budget import KVBudget
from bem.engine.kv_cache import KVCache
from bem.engine.sequence import Sequence
from bem.errors import InvalidSettingError

MIN_POSITIONS = 32
"""Positions that always stay: shorter prompts are not compressed."""

_PASS_TOKENS = 256


@dataclass(frozen=True)
class CacheSetting:
    """Cache policy of an engine.

    Attributes:
        policy: Policy that ranks the entries.
        share: Share of a prompt's bytes that stays, above 0 and below 1.
        min_positions: Positions of a prompt that always stay.
    """

    policy: EvictionPolicy
    share: float
    min_positions: int = MIN_POSITIONS

    def __post_init__(self) -> None:
        """Refuse a share that is none.

        Raises:
            InvalidSettingError: The share is not above 0 and at most 1.
        """
        if not 0 < self.share <= 1:
            raise InvalidSettingError(
                f"kv_share: is {self.share:g}; it must be above 0 and at most 1"
            )

    def budget(self, count: int) -> int:
        """Return how many of ``count`` positions stay."""
        return min(count, max(self.min_positions, kept_positions(count, self.share)))


@dataclass(frozen=True)
class ObservedPass:
    """A run of a prompt's last tokens that pass a layer together.

    Attributes:
        begin: First position.
        end: First position after the run.
        plan: Places of the tokens.
    """

    begin: int
    end: int
    plan: ForwardPlan


class CacheCompressor:
    """Evicts entries of complete prompts.

    Args:
        setting: Policy and share.
        decoder: Forward pass of the engine.
        kv_cache: Slots of the running sequences.
        binding: Sets the codes of observed tokens in the upper half.
        budget: Positions that running sequences may hold; evicted ones go back to it.
        counters: Receives the number of evicted positions.

    Raises:
        InvalidSettingError: The model has a sliding window within the context: an entry that was
            moved would be at another distance.
    """

    def __init__(
        self,
        setting: CacheSetting,
        *,
        decoder: Decoder,
        kv_cache: KVCache,
        binding: AdapterBinding,
        budget: KVBudget,
        counters: EngineCounters,
    ) -> None:
        if kv_cache.window is not None:
            raise InvalidSettingError(
                f"kv_policy: the model has layers that attend to {kv_cache.window} tokens "
                "(sliding_window), whose entries cannot be moved; set KV_POLICY to full, or "
                f"CONTEXT_TOKENS to at most {kv_cache.window}"
            )
        self.setting = setting
        self._decoder = decoder
        self._kv_cache = kv_cache
        self._binding = binding
        self._budget = budget
        self._counters = counters

    def compress(self, sequence: Sequence) -> None:
        """Evict entries of a sequence whose prompt is complete and whose output is not begun."""
        count = sequence.prompt_tokens
        kept = self.setting.budget(count)
        if kept >= count:
            return
        window = self.setting.policy.observed(count)
        for layer, queries in enumerate(self._queries(sequence, window)):
            keys, values = self._kv_cache.entries(sequence.slot, layer, count)
            entries = Entries(keys, values, queries)
            scores = self.setting.policy.scores(layer, entries, kept)
            self._kv_cache.compact(sequence.slot, layer, kept_entries(scores, kept))
        self._kv_cache.free(sequence.slot, kept, count)
        sequence.evicted_tokens = count - kept
        self._budget.shrink(sequence.handle, sequence.evicted_tokens)
        self._counters.evicted_tokens += sequence.evicted_tokens

    def _queries(self, sequence: Sequence, window: int) -> Iterator[Tensor]:
        """Yield the queries ``[Q, W, D]`` of the last ``window`` prompt tokens, layer by layer.

        A layer's entries may be moved once its queries were yielded: the next layer does not read
        them.
        """
        layers = range(self._kv_cache.keys.shape[0])
        if window == 0:
            none = self._kv_cache.keys.new_zeros(1, 0, self._kv_cache.keys.shape[-1])
            yield from (none for _ in layers)
            return
        passes = list(self._passes(sequence, window))
        ids = torch.tensor([sequence.token_ids[: sequence.prompt_tokens]])
        ids = ids.to(self._kv_cache.keys.device)
        states = [self._decoder.embed(ids[:, one.begin : one.end]) for one in passes]
        for layer in layers:
            queries = []
            for index, one in enumerate(passes):
                if layer >= self._decoder.split:
                    self._binding.bind([sequence], [sequence.schedule.span_at(one.begin)])
                states[index], observed = self._decoder.observe(layer, states[index], one.plan)
                queries.append(observed[0].transpose(0, 1))
            yield torch.cat(queries, 1)

    def _passes(self, sequence: Sequence, window: int) -> Iterator[ObservedPass]:
        """Yield the last ``window`` tokens in runs of one code."""
        begin, count = sequence.prompt_tokens - window, sequence.prompt_tokens
        while begin < count:
            span_end = sequence.schedule.span_at(begin).end or count
            end = min(begin + _PASS_TOKENS, count, span_end)
            yield ObservedPass(
                begin, end, self._decoder.plan([sequence.slot], [begin], end - begin)
            )
            begin = end
