"""Attention records: features of a prompt's KV entries, and the attention that its reply paid them.

A prompt with its wanted reply is computed by the serving engine as one text, with the adapter that
will serve such prompts. Features use what is known when the prompt ends; the target is the share of
the reply's attention that each entry got. Records are kept in memory: about 0.5 MB a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bem.cache_policy import Entries
from bem.cache_policy.learned import entry_features
from bem.engine import CacheSetting, GenerationRequest, LLMEngine, Segment, stream
from torch import Tensor

RECORDED_SHARE = 0.5
"""Share at which a recorded text is compressed afterwards; nothing reads it any more."""


@dataclass(frozen=True)
class RecordedText:
    """A prompt and the reply to it.

    Attributes:
        prompt: Token ids of the rendered prompt.
        reply: Token ids of the reply, at least one.
        cluster: Passage of the prompt; records are split by it.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    cluster: str


@dataclass(frozen=True)
class AttentionRecord:
    """Features and targets of one prompt.

    Attributes:
        features: ``[L, H, N, 10]`` float32.
        targets: ``[L, H, N]`` shares of the reply's attention to the prompt; a head's sum is 1.
        cluster: Passage of the prompt.
    """

    features: Tensor
    targets: Tensor
    cluster: str


class AttentionRecorder:
    """Eviction policy that records what it is shown.

    Args:
        window: Last prompt tokens that the features read.
    """

    name = "recorder"

    def __init__(self, window: int) -> None:
        self._window = window
        self._prompt_tokens = 0
        self._features: list[Tensor] = []
        self._targets: list[Tensor] = []

    def begin(self, prompt_tokens: int) -> None:
        """Expect a text whose prompt has a length."""
        self._prompt_tokens = prompt_tokens
        self._features, self._targets = [], []

    def observed(self, count: int) -> int:
        """Return the reply and the window before it."""
        return min(count, count - self._prompt_tokens + self._window)

    def scores(self, layer: int, entries: Entries, budget: int) -> Tensor:
        """Record a layer; the scores are those of a text that nobody reads."""
        del layer, budget
        prompt = self._prompt_tokens
        window = entries.observed - (entries.count - prompt)
        before = Entries(
            entries.keys[:, :prompt], entries.values[:, :prompt], entries.queries[:, :window]
        )
        self._features.append(entry_features(before))
        future = entries.last_queries(entries.count - prompt)
        mass = torch.cat(list(future.attention()), 1).sum(1)[:, :prompt]
        self._targets.append(mass / mass.sum(1, keepdim=True))
        return entries.keys.new_zeros(entries.keys.shape[:2])

    def record(self, cluster: str) -> AttentionRecord:
        """Return what was recorded since ``begin``."""
        return AttentionRecord(torch.stack(self._features), torch.stack(self._targets), cluster)


def record_attention(
    engine: LLMEngine, texts: Sequence[RecordedText], *, window: int, adapter: str | None
) -> list[AttentionRecord]:
    """Return the records of texts, computed one after the other.

    Args:
        engine: Started engine that nobody else uses; its cache policy is replaced meanwhile.
        texts: Prompts with replies.
        window: Last prompt tokens that the features read.
        adapter: Name of a loaded adapter; None for the base model.
    """
    recorder = AttentionRecorder(window)
    engine.set_cache(CacheSetting(recorder, RECORDED_SHARE, min_positions=1)).result()
    records = []
    for text in texts:
        recorder.begin(len(text.prompt))
        request = GenerationRequest(
            prompt_ids=(*text.prompt, *text.reply),
            max_tokens=2,
            ignore_eos=True,
            adapter=adapter,
            # The reply belongs to the adapter's turn: its codes come from the prompt alone.
            adapter_start=len(text.prompt) + len(text.reply) if adapter else 0,
            earlier_segments=(Segment(0, len(text.prompt), adapter),) if adapter else (),
        )
        list(stream(engine, [request]))  # until it is complete
        records.append(recorder.record(text.cluster))
    engine.set_cache(None).result()
    return records
