"""Trains the surface front of mission sep: ``python -m bem_fleet.recipes.sep_front``.

The same command resumes a run that was killed. At the end it scores the base model and the front on
development texts, clean and under scrambles of the training and held-out typing errors.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from bem.backbone import Backbone, load_backbone
from bem.sep.front_artifact import FrontCard, save_front
from bem.sep.surface_front import FrontFactors
from bem.training.decoder import TrainingDecoder
from bem.training.sep.front_evaluation import score_views
from bem.training.sep.front_trainer import OBJECTIVES, FrontTrainer, FrontTraining
from bem.training.sep.front_views import ScrambledView, TaughtText, clean_view, teach_texts
from bem.training.strategy import retain_freed_memory

from bem_fleet.recipes.sep_front.surface_texts import (
    HELD_OUT_TYPOS,
    TRAINING_TYPOS,
    ViewEncoder,
    surface_texts,
)

PROG = "python -m bem_fleet.recipes.sep_front"
EVALUATION_RATE = 0.2
"""Share of the words with a typing error in evaluations."""

DEFAULTS = FrontTraining()
"""Sizes of the front, and hyperparameters that no option changes."""

CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "training_typos": TRAINING_TYPOS,
    "held_out_typos": HELD_OUT_TYPOS,
    "case": ("case",),
    "whitespace": ("whitespace",),
}
"""Kinds of each condition of the evaluation; a text gets one of them."""


def evaluation_views(
    encoder: ViewEncoder,
    texts: Sequence[TaughtText],
    seed: int,
    conditions: Sequence[str] = tuple(CONDITIONS),
) -> dict[str, list[ScrambledView]]:
    """Return the views of each condition, the same for every system.

    Args:
        encoder: Encoder of the texts.
        texts: The texts with their teacher.
        seed: Seed of the views.
        conditions: Keys of ``CONDITIONS`` beside the clean views.
    """
    views = {"clean": [clean_view(text) for text in texts]}
    for place, (name, kinds) in enumerate(CONDITIONS.items()):
        if name not in conditions:
            continue
        generators = [np.random.default_rng([seed, place, n]) for n in range(len(texts))]
        views[name] = [
            encoder.view(n, [kinds[n % len(kinds)]], EVALUATION_RATE, rng)
            for n, rng in enumerate(generators)
        ]
    return views


def evaluate_front(
    decoder: TrainingDecoder,
    texts: Sequence[TaughtText],
    views: Mapping[str, Sequence[ScrambledView]],
    factors: FrontFactors | None,
    scale: float,
) -> dict[str, dict[str, float]]:
    """Return the mean scores over texts of each condition, rounded.

    Args:
        decoder: The frozen base model.
        texts: Clean texts.
        views: Views of each condition.
        factors: Factors of a front; None for the base model.
        scale: Scale of the front.
    """
    figures = {}
    for name, one in views.items():
        scores = [asdict(each) for each in score_views(decoder, texts, one, factors, scale=scale)]
        figures[name] = {
            key: round(fmean(score[key] for score in scores), 4)
            for key in ("divergence", "accuracy", "agreement")
        }
    return figures


def taught_texts(
    backbone: Backbone, decoder: TrainingDecoder, split: str, counts: Sequence[int], folder: Path
) -> tuple[ViewEncoder, list[TaughtText]]:
    """Return the encoder of the texts of a split, and the texts with their teacher.

    Args:
        backbone: Base model, which is the teacher.
        decoder: Training decoder of it.
        split: ``train`` or ``dev``.
        counts: Number of questions, requests and passages.
        folder: Folder of the teacher's cache.
    """
    questions, requests, passages = counts
    texts = surface_texts(split, backbone.tokenizer, (questions, requests, passages))
    encoder = ViewEncoder(backbone, texts)
    layer = DEFAULTS.matched_layer
    taught = teach_texts(
        decoder, encoder.clean_ids(), folder, base_digest=backbone.digest, layer=layer
    )
    return encoder, taught


def _card(backbone: Backbone, config: FrontTraining, digest: str, report: Any) -> FrontCard:
    return FrontCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=config.matched_layer,
        layers=list(range(config.layers)),
        kinds=["o_proj", "down_proj"],
        rank=config.rank,
        scale=config.scale,
        objective=config.objective,
        command=shlex.join([*PROG.split(), *sys.argv[1:]]),
        data_digest=digest,
        seed=config.seed,
        metrics=report,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--objective", choices=OBJECTIVES, default="self_teaching")
    parser.add_argument("--out", type=Path, default=Path("adapters/sep"))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--matching-steps", type=int, default=200)
    parser.add_argument("--prediction-steps", type=int, default=60)
    parser.add_argument(
        "--stop-step", type=int, help="stop after this step of the schedule, for a limited time"
    )
    parser.add_argument(
        "--texts", type=int, nargs=3, default=(60, 260, 130), help="questions, requests, passages"
    )
    parser.add_argument("--dev-texts", type=int, nargs=3, default=(8, 20, 12))
    parser.add_argument(
        "--conditions", nargs="*", choices=list(CONDITIONS), default=list(CONDITIONS)
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or resume a front, evaluate it beside the base model and write its artifact.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    options = _parse(arguments)
    retain_freed_memory()
    backbone = load_backbone(cache=options.cache / "models")
    decoder = TrainingDecoder(backbone, compute_dtype=torch.float32)
    config = replace(
        DEFAULTS,
        objective=options.objective,
        matching_steps=options.matching_steps,
        prediction_steps=options.prediction_steps,
        seed=options.seed,
    )
    folder = options.cache / "sep-front"
    encoder, taught = taught_texts(backbone, decoder, "train", options.texts, folder)
    digest = encoder.digest()
    run = folder / f"{config.objective}-{config.seed}"
    trainer = FrontTrainer(backbone, decoder, config, run)
    trainer.run(taught, encoder.training_view, stop_step=options.stop_step)
    encoder, taught = taught_texts(backbone, decoder, "dev", options.dev_texts, folder)
    report: dict[str, Any] = {
        "rate": EVALUATION_RATE,
        "texts": len(taught),
        "steps": [trainer.step, config.steps],
        "training_cpu_seconds": round(trainer.cpu_seconds),
    }
    views = evaluation_views(encoder, taught, config.seed, options.conditions)
    for name, factors in (("base", None), ("front", trainer.factors)):
        report[name] = evaluate_front(decoder, taught, views, factors, config.scale)
    save_front(options.out, _card(backbone, config, digest, report), trainer.factors)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
