"""Training of the online learner's bank: ``python -m bem_fleet.recipes.online train``.

The bank learns the 24 training families of instructions with one code each. Whitening and
calibration prompts come from them and from harmless requests of the training split. What a code
alone reaches is then measured on the 6 development families; the held-out ones stay closed.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from bem.adapters.site import default_layers
from bem.artifacts import TARGET_KINDS
from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.controller.whitening import whitening_axes
from bem.errors import InvalidSettingError
from bem.online.artifact import BankArtifact, BankCard, save_bank
from bem.online.codebook import Whitening
from bem.testing import tiny_backbone
from bem.training.activation_cache import encode_items, prompt_ids
from bem.training.online.bank_trainer import BankTrainer, BankTraining
from bem.training.online.code_likelihood import DecoderLikelihood
from bem.training.strategy import retain_freed_memory
from torch import Tensor

from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.data.instruction_families import (
    FamilyItem,
    FamilyPart,
    family_items,
    instruction_families,
    items_digest,
)
from bem_fleet.recipes.online.adaptation import AdaptationSize, adaptation_metrics, choose_start

PROG = "python -m bem_fleet.recipes.online"
COMPONENTS = 64
"""Width of a key."""


def train(options: argparse.Namespace) -> None:
    """Train the bank, measure it on development families and write its artifact."""
    retain_freed_memory()
    started = time.monotonic()
    tiny = options.backbone == "tiny"
    models = options.cache / "models"
    backbone = tiny_backbone() if tiny else load_backbone(options.backbone, cache=models)
    items = training_items(options.items, options.seed)
    trainer, features = train_bank(backbone, items, options)
    artifact = _artifact(backbone, trainer, features, items, options)
    size = AdaptationSize(options.corrections, options.probes, options.seed)
    dev = instruction_families("dev")
    artifact = replace(artifact, start=choose_start(backbone, artifact, dev, size))
    metrics = adaptation_metrics(backbone, artifact, dev, size)
    metrics |= {
        "start_is_mean": float(bool(artifact.start.any())),
        "unrelated": float(len(artifact.unrelated)),
        "seconds": time.monotonic() - started,
    }
    artifact = replace(artifact, card=replace(artifact.card, metrics=metrics))
    save_bank(options.out, artifact)
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")


def training_items(count: int, seed: int) -> list[FamilyItem]:
    """Return items of all training families, in both kinds of wordings.

    Args:
        count: Number of items of each family.
        seed: Seed of the items.
    """
    shares: dict[FamilyPart, int] = {"stream": count - count // 2, "probe": count // 2}
    return [
        item
        for family in instruction_families("train")
        for part, share in shares.items()
        for item in family_items(family, part, share, seed)
    ]


def train_bank(
    backbone: Backbone, items: list[FamilyItem], options: argparse.Namespace
) -> tuple[BankTrainer, Tensor]:
    """Train the bank; return the trainer and the pooled states ``[N, D]`` of the prompts."""
    first, feature = _layers(backbone)
    examples = encode_items(
        backbone,
        items,
        first_layer=first,
        feature_layer=feature,
        max_tokens=backbone.context_tokens,
        folder=options.cache / "features",
    )
    if len(examples) < len(items):
        raise InvalidSettingError(
            f"backbone: {len(items) - len(examples)} items are longer than its context of "
            f"{backbone.context_tokens} tokens; use another base model"
        )
    names = _family_names()
    config = BankTraining(
        layers=tuple(range(first, len(backbone.layers))),
        rank=options.rank,
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    folder = options.cache / "training" / f"online-{options.rank}-{options.items}-{options.seed}"
    trainer = BankTrainer(backbone, config, len(names), folder)
    trainer.run(examples, [names.index(item.family) for item in items])
    return trainer, torch.stack([example.feature for example in examples])


def unrelated_states(backbone: Backbone, trainer: BankTrainer, count: int) -> Tensor:
    """Return pooled states ``[count, D]`` of harmless requests of the training split."""
    model = DecoderLikelihood(backbone, trainer.bank(), feature_layer=_layers(backbone)[1])
    encoded = (prompt_ids(backbone, one.text) for one in load_benign_requests("train"))
    fitting = (ids for ids in encoded if len(ids) <= backbone.context_tokens)
    return model.states(list(islice(fitting, count)))


def _artifact(
    backbone: Backbone,
    trainer: BankTrainer,
    features: Tensor,
    items: list[FamilyItem],
    options: argparse.Namespace,
) -> BankArtifact:
    """Return the artifact with the code of zeros as its start."""
    unrelated = unrelated_states(backbone, trainer, 2 * options.unrelated)
    # Prompts that the whitening was fitted on lie nearer to its center than new ones do.
    fitted, calibration = unrelated[::2], unrelated[1::2]
    whitening = Whitening(*whitening_axes(torch.cat([features, fitted]), COMPONENTS))
    first, feature = _layers(backbone)
    bank = trainer.bank()
    card = BankCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        feature_layer=feature,
        layers=list(range(first, len(backbone.layers))),
        kinds=list(TARGET_KINDS),
        rank=options.rank,
        scale=bank.scale,
        command=shlex.join([*PROG.split(), *options.words]),
        data_digest=items_digest(items),
        seed=options.seed,
        families=_family_names(),
        components=whitening.axes.shape[1],
    )
    return BankArtifact(
        card, bank, trainer.table(), bank.base_code(), whitening, whitening.keys(calibration)
    )


def _family_names() -> list[str]:
    return [family.name for family in instruction_families("train")]


def _layers(backbone: Backbone) -> tuple[int, int]:
    """Return the first layer with sites and the feature layer."""
    return default_layers(len(backbone.layers))


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train the bank and write its artifact")
    command.add_argument("--out", type=Path, default=Path("adapters/online"))
    command.add_argument("--backbone", default=PACKAGED_MODEL, help="base model, or tiny")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.add_argument("--items", type=int, default=200, help="items of each family, 2 to 400")
    command.add_argument("--epochs", type=int, default=2)
    command.add_argument("--batch", type=int, default=16)
    command.add_argument("--rank", type=int, default=32)
    command.add_argument("--learning-rate", type=float, default=1e-3)
    command.add_argument("--unrelated", type=int, default=2000, help="calibration prompts")
    command.add_argument("--corrections", type=int, default=128, help="of each dev family")
    command.add_argument("--probes", type=int, default=50, help="of each dev family")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train)
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    options.words = words
    options.run(options)


if __name__ == "__main__":
    main()
