"""Compressed KV caches as systems that read a long text: H2O, KeyDiff and SnapKV.

Their evidence is the text of the tokens that stay: a reader that finds everything in its cache. The
tokens are chosen for all layers and heads together, because only then do they spell a text; scores
are averaged over them. A token costs the bytes of its keys and values.

Query-agnostic policies read the text part by part with a cache of constant size. Positions count
within the cache, as StreamingLLM does it (arXiv 2309.17453), because a text is longer than the
context: when entries move forward, their keys are rotated back by as much. SnapKV keeps the whole
text until it has seen the question, which is kinder than any cache of constant size can be.
"""

import torch
from bem.backbone import Backbone
from bem.cache_policy import Entries, attention_mass, kept_entries
from bem.cache_policy.eviction import (
    POOL_KERNEL,
    mean_key_similarity,
    pool_positions,
    protect_last,
)
from bem.engine.decoder import Decoder
from bem.engine.kv_cache import KVCache, rotate
from bem.memory import SlotTokenizer
from torch import Tensor

from bem_fleet.studies.memory.systems import KV_TOKEN_BYTES, EvidenceSystem, token_ids

PART_TOKENS = 256
"""Tokens that are read between two evictions."""

_QUESTION_TOKENS = 128


class CachedText:
    """Token ids of a text with their keys and values, at the places that they have in the cache.

    Systems may share one: each reads a text and answers all questions before the next one reads.

    Args:
        backbone: Base model in the format in which it was loaded.

    Attributes:
        ids: Token ids of the text.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.ids: list[int] = []
        self.tokenizer = SlotTokenizer(backbone.tokenizer)
        self.capacity = backbone.context_tokens
        self._cache = KVCache(backbone, slots=1, context_tokens=self.capacity)
        self._decoder = Decoder(backbone, None, self._cache)
        self._layers = len(backbone.layers)
        self._device = backbone.model.device

    @torch.inference_mode()
    def read(self, ids: list[int]) -> list[Entries]:
        """Compute further tokens, which are not yet part of the text; return all layers' entries.

        Args:
            ids: Tokens; their keys and values stand behind the text's until the next call.
        """
        count = len(self.ids)
        plan = self._decoder.plan([0], [count], len(ids))
        hidden = self._decoder.embed(torch.tensor([ids], device=self._device))
        entries = []
        for layer in range(self._layers):
            hidden, queries = self._decoder.observe(layer, hidden, plan)
            keys, values = self._cache.entries(0, layer, count + len(ids))
            entries.append(Entries(keys, values, queries[0].transpose(0, 1)))
        return entries

    @torch.inference_mode()
    def keep(self, ids: list[int], kept: Tensor) -> None:
        """Let the text be what stays of itself and of tokens that were read.

        Args:
            ids: Tokens of the last call of ``read``.
            kept: ``[B]`` places that stay, ascending.
        """
        tokens = [*self.ids, *ids]
        self.ids = [tokens[place] for place in kept.tolist()]
        kept = kept.to(self._device)
        moved = kept - torch.arange(len(kept), device=kept.device)
        cos, sin = self._cache.cos[moved], self._cache.sin[moved]
        for layer in range(self._layers):
            heads = self._cache.keys.shape[2]
            self._cache.compact(0, layer, kept.expand(heads, -1))
            keys, _ = self._cache.entries(0, layer, len(kept))
            # [H, B, D] as rows of one head each: minus the sine rotates back.
            keys.copy_(rotate(keys.unsqueeze(2), cos.unsqueeze(1), -sin.unsqueeze(1)).squeeze(2))


class StreamedCacheSystem:
    """H2O or KeyDiff over a stream of text, in constant bytes.

    Args:
        name: Name in reports.
        cached: Keys and values of the text.
        budget_bytes: Bytes of keys and values in bfloat16.
        heavy_hitters: Whether accumulated attention ranks (H2O); otherwise unlike keys (KeyDiff).
    """

    def __init__(
        self, name: str, cached: CachedText, budget_bytes: int, *, heavy_hitters: bool
    ) -> None:
        self.name = name
        self._cached, self._heavy = cached, heavy_hitters
        self._budget = _affordable(cached, budget_bytes)
        self._text = ""

    def read(self, text: str) -> None:
        """Read a text part by part."""
        cached = self._cached
        ids = token_ids(cached.tokenizer, text)
        cached.ids = []
        mass = torch.zeros(0)
        for begin in range(0, len(ids), PART_TOKENS):
            part = ids[begin : begin + PART_TOKENS]
            entries = cached.read(part)
            count = len(cached.ids) + len(part)
            mass = torch.cat([mass, torch.zeros(len(part))])
            kept = torch.arange(count)
            if self._heavy:
                mass += _mean([attention_mass(one).cpu() for one in entries])
                scores = protect_last(mass[None], self._budget // 2)
            else:
                scores = _mean([-mean_key_similarity(one.keys).cpu() for one in entries])[None]
            if count > self._budget:
                kept = kept_entries(scores, self._budget)[0]
            mass = mass[kept]
            cached.keep(part, kept)
        self._text = cached.tokenizer.text(cached.ids)

    def evidence(self, question: str) -> list[str]:
        """Return what is in the cache."""
        del question
        return [self._text]


class ObservedCacheSystem:
    """SnapKV with the question in view: it chooses from the whole text for each question.

    Args:
        name: Name in reports.
        cached: Keys and values of the text; the context limits it to the end of a long text.
        budget_bytes: Bytes of keys and values in bfloat16 that each question gets.
    """

    def __init__(self, name: str, cached: CachedText, budget_bytes: int) -> None:
        self.name = name
        self._cached = cached
        self._budget = _affordable(cached, budget_bytes)

    def read(self, text: str) -> None:
        """Keep the keys and values of all that the context holds beside a question."""
        ids = token_ids(self._cached.tokenizer, text)
        ids = ids[-(self._cached.capacity - _QUESTION_TOKENS) :]
        self._cached.ids = []
        for begin in range(0, len(ids), PART_TOKENS):
            part = ids[begin : begin + PART_TOKENS]
            self._cached.read(part)
            self._cached.ids += part

    def evidence(self, question: str) -> list[str]:
        """Return the tokens to which the question attends."""
        tokenizer = self._cached.tokenizer
        asked = token_ids(tokenizer, question)[:_QUESTION_TOKENS]
        count = len(self._cached.ids)
        entries = self._cached.read(asked)
        mass = _mean([attention_mass(one).cpu() for one in entries])[None, :count]
        kept = kept_entries(pool_positions(mass, POOL_KERNEL), self._budget)[0]
        return [tokenizer.text([self._cached.ids[place] for place in kept.tolist()])]


def cache_systems(backbone: Backbone, budgets: dict[str, int]) -> list[EvidenceSystem]:
    """Return H2O, KeyDiff and SnapKV at each budget.

    Args:
        backbone: Base model.
        budgets: Bytes of keys and values by name.
    """
    made: list[EvidenceSystem] = []
    cached = CachedText(backbone)
    for size, kept in budgets.items():
        made.append(StreamedCacheSystem(f"h2o_{size}", cached, kept, heavy_hitters=True))
        made.append(StreamedCacheSystem(f"keydiff_{size}", cached, kept, heavy_hitters=False))
        made.append(ObservedCacheSystem(f"snapkv_{size}", cached, kept))
    return made


def _affordable(cached: CachedText, budget_bytes: int) -> int:
    """Return the tokens that a budget holds, at most the context beside a part."""
    most = cached.capacity - PART_TOKENS
    return max(1, min(budget_bytes // KV_TOKEN_BYTES, most))


def _mean(scores: list[Tensor]) -> Tensor:
    """Return the mean ``[N]`` of the layers' scores ``[H, N]``."""
    return torch.stack(scores).mean((0, 1))
