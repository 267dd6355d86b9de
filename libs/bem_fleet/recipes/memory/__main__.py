"""Trains the memory modules on cached states: ``python -m bem_fleet.recipes.memory``.

Keys come first, then the gate, which reads novelty from them, the state's decay with the gate's
strengths, and from whole sessions the weights of the score, confidence and coverage.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from bem.artifacts import TARGET_KINDS
from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.memory import EmbeddingStates, MemoryEncoder, MemoryModules, SlotTokenizer
from bem.memory.artifact import STATES, MemoryCard, save_modules, spread_of
from bem.memory.slot_store import DEFAULT_BUDGET, MIN_BUDGET
from bem.testing import tiny_backbone

from bem_fleet.recipes.memory.calibration import (
    calibration_error,
    confidence_rows,
    coverage_rows,
    fit_logistic,
    fit_score,
    joined,
    read_session,
)
from bem_fleet.recipes.memory.module_training import (
    ModuleTraining,
    gate_features,
    train_gate,
    train_keys,
)
from bem_fleet.recipes.memory.state_training import StateTraining, Strengths, train_state
from bem_fleet.recipes.memory.training_sentences import (
    MemoryText,
    TrainingSentences,
    memory_text,
    training_sentences,
)

PROG = "python -m bem_fleet.recipes.memory"

CALIBRATION_BUDGETS = (DEFAULT_BUDGET, 4 * MIN_BUDGET, 2 * MIN_BUDGET)
"""Bytes of the sessions by which confidence and coverage are fitted."""


def train_modules(
    backbone: Backbone, *, characters: int, items: int, seed: int
) -> tuple[MemoryModules, dict[str, float], str]:
    """Train all memory modules.

    Args:
        backbone: Base model, of which the token embeddings are read.
        characters: Length of the training text; that of development is a quarter.
        items: Planted items of each task.
        seed: Seed of texts and batches.

    Returns:
        Trained modules, measurements on development texts, and the SHA-256 of the training data.
    """
    tokenizer, states = SlotTokenizer(backbone.tokenizer), EmbeddingStates(backbone)
    modules = MemoryModules(states.width, seed)
    text = memory_text("train", tokenizer, characters=characters, items=items, seed=seed)
    absent = max(1, items // 2)
    dev_text = memory_text(
        "dev", tokenizer, characters=characters // 4, items=items, seed=seed + 1, absent=absent
    )
    train, dev = (training_sentences(one, tokenizer, states) for one in (text, dev_text))
    center, spread = spread_of(train.states)
    modules.center.copy_(center)
    modules.spread.copy_(spread)
    how = ModuleTraining(seed=seed)
    metrics = train_keys(modules, train, dev, how) | train_gate(modules, train, dev, how)
    metrics |= train_state(modules, _strengths(modules, train), StateTraining(seed=seed))
    encoder = MemoryEncoder(tokenizer, states, modules)
    fit_score(
        read_session(encoder, text.text, DEFAULT_BUDGET), encoder, (*text.planted, *text.natural)
    )
    metrics |= calibrate(encoder, dev_text)
    return modules, metrics, _digest(text, dev_text)


def calibrate(encoder: MemoryEncoder, text: MemoryText) -> dict[str, float]:
    """Fit confidence and coverage on half of a text's items.

    Roomy and full memories are read, so that evictions count too.

    Args:
        encoder: Encoder with otherwise trained modules.
        text: Development text.

    Returns:
        ECE of both on the other half, and the number of its rows.
    """
    modules, metrics = encoder.modules, {}
    sessions = [read_session(encoder, text.text, budget) for budget in CALIBRATION_BUDGETS]
    present = (*text.planted, *text.natural)
    for name, layer, rows, items in (
        ("confidence", modules.confidence, confidence_rows, (*present, *text.absent)),
        ("coverage", modules.coverage, coverage_rows, present),
    ):
        fitted, others = (
            joined([rows(session, encoder, items[half::2]) for session in sessions])
            for half in (0, 1)
        )
        fit_logistic(layer, fitted)
        metrics[f"{name}_rows"] = float(len(others.right))
        if len(others.right):
            metrics[f"{name}_ece"] = calibration_error(layer, others)
    return metrics


@torch.no_grad()
def _strengths(modules: MemoryModules, data: TrainingSentences) -> Strengths:
    """Return the saliences of the pieces, with which their entities are written."""
    logits = modules.gate(modules.standardize(data.states), gate_features(modules, data))
    saliences = torch.sigmoid(logits)
    return Strengths(saliences[data.asked].tolist(), saliences[~data.asked].tolist())


def _digest(*texts: MemoryText) -> str:
    content = json.dumps([asdict(one) for one in texts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _card(backbone: Backbone, options: argparse.Namespace, width: int) -> MemoryCard:
    """Return the card without what training measures; memory modules adapt no layer."""
    return MemoryCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=0,
        layers=[0],
        kinds=list(TARGET_KINDS[:1]),
        rank=1,
        scale=1.0,
        command=shlex.join([*PROG.split(), *options.words]),
        data_digest="",
        seed=options.seed,
        states=list(STATES),
        width=width,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the modules and write their artifact.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("adapters/memory"))
    parser.add_argument("--backbone", default=PACKAGED_MODEL, help="base model, or tiny")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--characters", type=int, default=600_000, help="length of the text")
    parser.add_argument("--items", type=int, default=60, help="planted items of each task, 1 to 66")
    parser.add_argument("--seed", type=int, default=0)
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    options.words = words
    started = time.monotonic()
    tiny = options.backbone == "tiny"
    backbone = tiny_backbone() if tiny else load_backbone(options.backbone, cache=options.cache)
    modules, metrics, digest = train_modules(
        backbone, characters=options.characters, items=options.items, seed=options.seed
    )
    metrics["seconds"] = time.monotonic() - started
    card = replace(_card(backbone, options, modules.width), data_digest=digest, metrics=metrics)
    card = save_modules(options.out, card, modules)
    sys.stdout.write(json.dumps(card.metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
