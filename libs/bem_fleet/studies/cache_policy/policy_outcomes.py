"""Answers under a cache policy, their scores, and the bytes that the prompts kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bem.cache_policy import EvictionPolicy
from bem.engine import CacheSetting, LLMEngine
from bem.engine.kv_cache import position_bytes

from bem_fleet.data.passage_qa import PassageQuestion
from bem_fleet.evaluation.systems import Chat, Decoding, Message
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.scores.metrics import score_functions
from bem_fleet.stats.comparison import compare_pairs

MEASURES = ("exact_match", "f1")
FULL = "full"
"""Name of the system that keeps all entries."""


@dataclass(frozen=True)
class PolicyOutcome:
    """Scores of one system on all questions.

    Attributes:
        system: Name of the policy.
        share: Share of the bytes that it may keep.
        scores: Scores by measure, each in the order of the questions.
        prompt_bytes: Bytes of the keys and values of the prompts after compression.
        full_bytes: The same bytes without a policy.
    """

    system: str
    share: float
    scores: Mapping[str, Sequence[float]]
    prompt_bytes: int
    full_bytes: int


def answer_all(
    engine: LLMEngine,
    questions: Sequence[PassageQuestion],
    policy: EvictionPolicy | None,
    share: float,
    *,
    adapter: str | None,
    max_tokens: int,
) -> PolicyOutcome:
    """Answer all questions greedily under a policy.

    Prompts that were computed before come from the prefix cache: their blocks are those of the
    whole cache, whatever the policy.

    Args:
        engine: Started engine that nobody else uses.
        questions: Questions with passages.
        policy: Policy that evicts; None keeps all entries.
        share: Share of the bytes that stays.
        adapter: Name of a loaded adapter; None for the base model, whose answers are read from any
            text.
        max_tokens: Most tokens of an answer.
    """
    engine.set_cache(CacheSetting(policy, share) if policy else None).result()
    evicted = engine.counters.evicted_tokens
    chats: list[Chat] = [(Message("user", one.prompt()),) for one in questions]
    system = WorkerSystem(engine, adapter)
    replies = dict(system.respond(chats, Decoding(max_tokens=max_tokens), seed=0))
    functions = score_functions("strict" if adapter else "lenient")
    prompt_tokens = sum(one.prompt_tokens for one in replies.values())
    stored = prompt_tokens - (engine.counters.evicted_tokens - evicted)
    each = position_bytes(engine.backbone)
    return PolicyOutcome(
        system=policy.name if policy else FULL,
        share=share,
        scores={
            measure: [
                functions[measure](replies[index].text, (one.answer,))
                for index, one in enumerate(questions)
            ]
            for measure in MEASURES
        },
        prompt_bytes=stored * each,
        full_bytes=prompt_tokens * each,
    )


def compare_with_full(
    outcome: PolicyOutcome, full: PolicyOutcome, questions: Sequence[PassageQuestion]
) -> dict[str, Any]:
    """Return a row of the report: scores, bytes and the loss with its interval by passage.

    Args:
        outcome: Scores under a policy.
        full: Scores with the whole cache.
        questions: Questions in the order of the scores.
    """
    row: dict[str, Any] = {
        "system": outcome.system,
        "share": outcome.share,
        "bytes": outcome.prompt_bytes,
        "bytes_share": outcome.prompt_bytes / max(1, outcome.full_bytes),
        "items": len(questions),
        "passages": len({one.cluster for one in questions}),
    }
    for measure in MEASURES:
        mine, theirs = np.array(outcome.scores[measure]), np.array(full.scores[measure])
        row[measure] = float(mine.mean())
        found = compare_pairs(mine, theirs, item_clusters=[one.cluster for one in questions])
        row[f"{measure}_difference"] = float((mine - theirs).mean())
        row[f"{measure}_low"] = found.interval.low
        row[f"{measure}_high"] = found.interval.high
        row[f"{measure}_p"] = found.p
    return row
