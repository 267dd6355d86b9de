"""Trains the learned cache policy: ``python -m bem_fleet.recipes.cache_policy``.

Prompts and replies are those of the training split of the passage questions; a fifth of the
passages is kept back to measure the attention that stays. With ``--backbone tiny`` it is a test of
the command.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bem.adapters.artifact import CARD_FILE as ADAPTER_CARD
from bem.adapters.bank import AdapterBank
from bem.backbone import PACKAGED_MODEL, Backbone
from bem.cache_policy import CacheScorer
from bem.cache_policy.artifact import CachePolicyCard, save_scorer
from bem.cache_policy.eviction import WINDOW
from bem.engine import LLMEngine
from bem.prompt_encoding import PromptEncoder

from bem_fleet.data.passage_qa import PassageQuestion, load_passage_qa
from bem_fleet.recipes.cache_policy.attention_records import (
    AttentionRecord,
    RecordedText,
    record_attention,
)
from bem_fleet.recipes.cache_policy.base_model import (
    CONTEXT_TOKENS,
    TINY,
    WEIGHTS,
    open_base_model,
)
from bem_fleet.recipes.cache_policy.scorer_training import (
    ScorerTraining,
    fit_scorer,
    retained_attention,
)

PROG = "python -m bem_fleet.recipes.cache_policy"
DEV_SHARE = 5
"""One of so many passages is kept back."""


def recorded_texts(backbone: Backbone, questions: Sequence[PassageQuestion]) -> list[RecordedText]:
    """Return the prompts of questions with the wanted replies and the end of the turn."""
    encoder = PromptEncoder(backbone.tokenizer)
    end = tuple(sorted(backbone.end_token_ids))[:1]
    return [
        RecordedText(
            tuple(encoder.encode_chat([{"role": "user", "content": one.prompt()}])),
            (*encoder.encode_text(one.reply()), *end),
            one.cluster,
        )
        for one in questions
    ]


def split_records(
    records: Sequence[AttentionRecord],
) -> tuple[list[AttentionRecord], list[AttentionRecord]]:
    """Return training records and those of the passages that are kept back."""
    clusters = sorted({one.cluster for one in records})
    kept_back = set(clusters[::DEV_SHARE]) if len(clusters) > 1 else set()
    train = [one for one in records if one.cluster not in kept_back]
    return train, [one for one in records if one.cluster in kept_back]


def train_policy(
    backbone: Backbone,
    questions: Sequence[PassageQuestion],
    how: ScorerTraining,
    *,
    adapter: Path | None,
    window: int = WINDOW,
) -> tuple[CacheScorer, dict[str, float]]:
    """Record attention and train a scorer.

    Args:
        backbone: Base model without sites.
        questions: Training questions of at least two passages.
        how: Steps, learning rate and seed.
        adapter: Folder of the adapter that answers the questions; None for the base model.
        window: Last prompt tokens that the features read.

    Returns:
        The scorer and what was measured on the passages that were kept back.
    """
    bank = AdapterBank.for_artifact(backbone, adapter, slots=1) if adapter else None
    name = bank.load(adapter).name if bank and adapter else None
    engine = LLMEngine(
        backbone, bank, max_sequences=1, prefix_bytes=0, context_tokens=CONTEXT_TOKENS
    )
    engine.start()
    try:
        texts = [
            one
            for one in recorded_texts(backbone, questions)
            if len(one.prompt) + len(one.reply) + 2 <= engine.context_tokens
        ]
        records = record_attention(engine, texts, window=window, adapter=name)
    finally:
        engine.close(drain=True)
    train, dev = split_records(records)
    config = backbone.model.config
    torch.manual_seed(how.seed)
    scorer = CacheScorer(config.num_hidden_layers, config.num_key_value_heads, window)
    losses = fit_scorer(scorer, train, how)
    tail = losses[-max(1, len(losses) // 10) :]
    metrics = {"loss_first": losses[0], "loss_last": sum(tail) / len(tail)}
    metrics |= {"records_train": float(len(train)), "records_dev": float(len(dev))}
    return scorer, metrics | retained_attention(scorer, dev)


def _digest(questions: Sequence[PassageQuestion]) -> str:
    return hashlib.sha256("\n".join(one.key for one in questions).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the policy and write its artifact.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("adapters/cache-policy"))
    parser.add_argument("--backbone", default=PACKAGED_MODEL, help="base model, or tiny")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--adapter", type=Path, default=Path("adapters/passage-qa"))
    parser.add_argument("--weights", choices=WEIGHTS, default="int4")
    parser.add_argument("--records", type=int, default=120, help="prompts that are recorded")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    started = time.monotonic()
    tiny = options.backbone == TINY
    backbone = open_base_model(options.backbone, options.weights, options.cache)
    questions = load_passage_qa().splits["train"][: options.records]
    adapter = options.adapter if (options.adapter / ADAPTER_CARD).is_file() and not tiny else None
    how = ScorerTraining(steps=options.steps, seed=options.seed)
    scorer, metrics = train_policy(backbone, questions, how, adapter=adapter)
    metrics["seconds"] = time.monotonic() - started
    config = backbone.model.config
    card = CachePolicyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=0,
        command=shlex.join([*PROG.split(), *words]),
        data_digest=_digest(questions),
        seed=options.seed,
        layers=config.num_hidden_layers,
        kv_heads=config.num_key_value_heads,
        window=scorer.window,
    )
    card = save_scorer(options.out, replace(card, metrics=metrics), scorer)
    sys.stdout.write(json.dumps(card.metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
