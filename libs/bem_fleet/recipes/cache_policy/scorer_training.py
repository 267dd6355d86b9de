"""Training of a cache scorer on attention records.

The softmax of a head's scores over the entries of a prompt is compared with the shares of the
reply's attention by cross-entropy, averaged over layers and heads. This orders entries by the
attention that they will get; which of them stay is a question of the budget alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bem.cache_policy import CacheScorer, kept_entries, kept_positions
from bem.cache_policy.learned import FEATURES, POOLED_FEATURE
from torch import Tensor

from bem_fleet.recipes.cache_policy.attention_records import AttentionRecord

SHARES = (0.25, 0.5)
"""Shares of the bytes at which a scorer is measured."""


@dataclass(frozen=True)
class ScorerTraining:
    """How a scorer is trained.

    Attributes:
        steps: Updates, each on one record.
        learning_rate: Highest learning rate of AdamW; it falls to 0 along a cosine.
        seed: Seed of the order of records.
    """

    steps: int = 400
    learning_rate: float = 5e-3
    seed: int = 0


def fit_scorer(
    scorer: CacheScorer, records: Sequence[AttentionRecord], how: ScorerTraining
) -> list[float]:
    """Train a scorer in place.

    Args:
        scorer: Scorer of the base model.
        records: Training records, at least one.
        how: Steps, learning rate and seed.

    Returns:
        Loss of each step, in nats.
    """
    _standardize(scorer, records)
    generator = torch.Generator().manual_seed(how.seed)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=how.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps)
    losses = []
    for _ in range(how.steps):
        record = records[int(torch.randint(len(records), (), generator=generator))]
        loss = cross_entropy(scorer, record)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def cross_entropy(scorer: CacheScorer, record: AttentionRecord) -> Tensor:
    """Return the mean cross-entropy of a record's heads, in nats."""
    logprobs = scorer(record.features, scorer.heads).log_softmax(-1)
    return -(record.targets * logprobs).sum(-1).mean()


@torch.no_grad()
def retained_attention(scorer: CacheScorer, records: Sequence[AttentionRecord]) -> dict[str, float]:
    """Return the share of the reply's attention that stays, by ranking and share of the bytes.

    Beside the scorer: the pooled attention of the window (SnapKV), unlike keys (KeyDiff), the most
    recent entries after the sinks (StreamingLLM), and the reply's own attention, which bounds all.
    """
    measured: dict[str, float] = {}
    for share in SHARES:
        kept: dict[str, list[float]] = {}
        for record in records:
            for name, scores in _rankings(scorer, record).items():
                kept.setdefault(name, []).append(_retained(scores, record.targets, share))
        for name, values in kept.items():
            measured[f"retained_{name}_{share:g}"] = sum(values) / len(values)
    return measured


def _rankings(scorer: CacheScorer, record: AttentionRecord) -> dict[str, Tensor]:
    named = {name: record.features[..., index] for index, name in enumerate(FEATURES)}
    return {
        "learned": scorer(record.features, scorer.heads),
        "snapkv": record.features[..., POOLED_FEATURE],
        "keydiff": -named["key_similarity"],
        "streaming_llm": named["place"] + named["sink"],
        "bound": record.targets,
    }


def _retained(scores: Tensor, targets: Tensor, share: float) -> float:
    flat, wanted = scores.flatten(0, 1), targets.flatten(0, 1)  # [L * H, N]
    budget = kept_positions(flat.shape[1], share)
    return float(wanted.gather(1, kept_entries(flat, budget)).sum(1).mean())


@torch.no_grad()
def _standardize(scorer: CacheScorer, records: Sequence[AttentionRecord]) -> None:
    rows = torch.cat([one.features.flatten(0, 2) for one in records])
    scorer.center.copy_(rows.mean(0))
    scorer.spread.copy_(rows.std(0).clamp(min=1e-3))
