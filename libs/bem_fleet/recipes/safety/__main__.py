"""Safety training command: ``python -m bem_fleet.recipes.safety --out adapters/safety``."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bem.adapters import read_adapter, read_adapter_card
from bem.adapters.site import default_layers
from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.errors import InvalidSettingError
from bem.safety import SafetyCard, ValueHead, read_safety, save_safety
from bem.safety.artifact import TENSORS_FILE
from bem.training.activation_cache import mean_prompt_states
from bem.training.safety.plots import plot_curve
from bem.training.safety.trainer import SafetyTrainer, SafetyTrainingConfig
from bem.training.strategy import retain_freed_memory
from safetensors.torch import load_file
from torch import Tensor

from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.data.red_team import draw_dev_families, load_red_team, sample_prompts
from bem_fleet.guard.training.family_rates import MAX_FALSE_POSITIVE_RATES, threshold_by_family
from bem_fleet.recipes.safety.development import development_requests, measure_refusals
from bem_fleet.recipes.safety.examples import MAX_CHARS, load_examples, written_requests

PROG = "python -m bem_fleet.recipes.safety"


@dataclass(frozen=True)
class LabelledRequest:
    """Request that the value head is fitted to or calibrated on.

    Attributes:
        text: The request.
        family: Origin of the request.
        risky: Whether it is an attack.
        dev: Whether it calibrates the head instead of fitting it.
        written: Whether it was written for the guard, not packaged.
    """

    text: str
    family: str
    risky: bool
    dev: bool
    written: bool = False


@dataclass(frozen=True)
class FittedValueHead:
    """A fitted value head and its figures on requests that it was not fitted on.

    Attributes:
        head: Fitted and calibrated value head.
        metrics: Threshold, and shares of development attacks and of harmless development
            requests above it.
    """

    head: ValueHead
    metrics: dict[str, float]


def fit_value_head(
    backbone: Backbone, feature_layer: int, count: int, cache: Path
) -> FittedValueHead:
    """Fit the value head and calibrate it on families and origins that it was not fitted on.

    Attacks come from the training split; a fifth of its families are kept for calibration.
    Harmless requests come from the training split (fitting) and the development split
    (calibration), which have different origins. Both sides have requests that were written for the
    guard too: no packaged origin has short neutral requests, code, roles, languages or own data.

    The threshold is the higher of those of packaged and of written harmless families
    (``threshold_by_family``).

    Args:
        backbone: Base model without sites up to ``feature_layer``.
        feature_layer: Layer that the value head reads.
        count: Number of attacks, and of harmless requests of each split.
        cache: Folder of cached activations.
    """
    requests = [*_packaged_requests(count), *_written_requests(count)]
    texts = [one.text for one in requests]
    risky = torch.tensor([one.risky for one in requests])
    dev = torch.tensor([one.dev for one in requests])
    written = torch.tensor([one.written for one in requests])
    features = mean_prompt_states(backbone, texts, feature_layer, cache / "features")
    head = ValueHead(features.shape[1])
    head.fit(features[~dev], risky[~dev])
    threshold = max(
        _choose_threshold(head, features, requests, dev & ~risky & group)
        for group in (~written, written)
    )
    head.calibrate(threshold, features[dev & risky])
    with torch.no_grad():
        above = head(features) > 0
    return FittedValueHead(
        head,
        {
            "threshold": float(head.threshold),
            "full": float(head.full),
            "dev_attacks": float((dev & risky).sum()),
            "dev_attacks_found": float(above[dev & risky].float().mean()),
            "dev_harmless_found": float(above[dev & ~risky & ~written].float().mean()),
            "dev_written_found": float(above[dev & ~risky & written].float().mean()),
            "attacks": float((~dev & risky).sum()),
            "harmless": float((~dev & ~risky).sum()),
        },
    )


@torch.no_grad()
def _choose_threshold(
    head: ValueHead, features: Tensor, requests: Sequence[LabelledRequest], chosen: Tensor
) -> float:
    """Return the lowest logit that keeps the rate of false positives over the chosen families.

    Args:
        head: Fitted value head.
        features: Features of all requests [requests, F].
        requests: The requests.
        chosen: Which of them are harmless and calibrate [requests].
    """
    return threshold_by_family(
        head.logit(features[chosen]).numpy(),
        [requests[row].family for row in chosen.nonzero().flatten().tolist()],
        MAX_FALSE_POSITIVE_RATES["value head"],
        minimum=-math.inf,
        maximum=math.inf,
    )


def _packaged_requests(count: int) -> list[LabelledRequest]:
    """Return attacks, and as many harmless requests of each split, of packaged data sets."""
    attacks = load_red_team("train")
    dev = draw_dev_families(attacks, seed=1)
    requests = [
        LabelledRequest(p.text, p.family, risky=True, dev=p.cluster in dev)
        for p in sample_prompts(attacks, count, longest=MAX_CHARS)
    ]
    for split in ("train", "dev"):
        requests += [
            LabelledRequest(p.text, p.family, risky=False, dev=split == "dev")
            for p in load_benign_requests(split)[:count]
        ]
    return requests


def _written_requests(count: int) -> list[LabelledRequest]:
    """Return as many harmless and as many harmful requests of each split, the families in turn."""
    return [
        LabelledRequest(one.text, one.family, risky, dev=split == "dev", written=True)
        for split in ("train", "dev")
        for risky in (False, True)
        for one in written_requests(split, count, harmless=not risky)
    ]


def refit_value_head(arguments: argparse.Namespace) -> None:
    """Fit the value head of an artifact anew and keep its adapter."""
    cache = arguments.cache / "models"
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype, cache=cache)
    artifact = read_safety(arguments.out, base_digest=backbone.digest)
    value = fit_value_head(
        backbone,
        artifact.card.feature_layer,
        arguments.requests,
        arguments.cache / "safety",
    )
    tensors = load_file(arguments.out / TENSORS_FILE)
    tensors |= {f"value.{name}": tensor for name, tensor in value.head.state_dict().items()}
    metrics = {**artifact.card.metrics, "value": value.metrics}
    save_safety(arguments.out, replace(artifact.card, metrics=metrics), tensors)
    record_development(backbone, arguments)


def committed_output_factors(backbone: Backbone, adapters: Path) -> dict[int, list[Tensor]]:
    """Return the output factors of this base's adapters, ``{layer: [B [d_out, r], ...]}``."""
    factors: dict[int, list[Tensor]] = {}
    for card in sorted(adapters.glob("*/card.json")):
        if read_adapter_card(card.parent).base_digest != backbone.digest:
            continue
        adapter = read_adapter(card.parent, base_digest=backbone.digest)
        for path, (_, b) in adapter.factors.items():
            factors.setdefault(int(path.split(".")[2]), []).append(b.float())
    return factors


def train(arguments: argparse.Namespace) -> None:
    """Train the safety adapter and its value head, and write the artifact."""
    retain_freed_memory()
    cache = arguments.cache / "models"
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype, cache=cache)
    config = safety_config(
        len(backbone.layers),
        arguments.layers,
        basis=arguments.basis,
        epsilon=arguments.epsilon,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    examples = load_examples(
        backbone,
        first_layer=min(config.layers),
        feature_layer=config.feature_layer,
        attacks=arguments.attacks,
        harmless=arguments.harmless,
        cache=arguments.cache / "safety",
    )
    committed = committed_output_factors(backbone, arguments.adapters)
    trainer = SafetyTrainer(backbone, config, arguments.curves, orthogonal_to=committed)
    training_metrics = trainer.run(examples)
    plot_curve(arguments.curves / "curve.jsonl", arguments.curves / "curve.png", config.epsilon)
    value = fit_value_head(
        backbone, config.feature_layer, arguments.requests, arguments.cache / "safety"
    )
    tensors = trainer.tensors()
    tensors |= {f"value.{name}": tensor for name, tensor in value.head.state_dict().items()}
    metrics = {"training": training_metrics, "value": value.metrics}
    card = safety_card(backbone, trainer, data_digest=examples.digest, metrics=metrics)
    save_safety(arguments.out, card, tensors)
    record_development(backbone, arguments)


def record_development(backbone: Backbone, arguments: argparse.Namespace) -> None:
    """Measure the artifact that was written on development requests, into its card."""
    artifact = read_safety(arguments.out, base_digest=backbone.digest)
    figures = measure_refusals(
        backbone, artifact, development_requests(arguments.measured), arguments.cache / "safety"
    )
    metrics = {**artifact.card.metrics, "development": figures}
    card = replace(artifact.card, metrics=metrics)
    save_safety(arguments.out, card, load_file(arguments.out / TENSORS_FILE))
    sys.stdout.write(json.dumps(card.metrics, indent=1) + "\n")


def safety_config(count: int, uppermost: int, **options: Any) -> SafetyTrainingConfig:
    """Return a configuration whose layers and feature are those of a mission's adapter bank.

    Args:
        count: Layers of the model.
        uppermost: Layers with sites, from the last one down; no more than the bank has.
        options: Further hyperparameters.

    Raises:
        InvalidSettingError: The model has no layer for sites.
    """
    first, feature = default_layers(count)
    if count == 1:
        raise InvalidSettingError("backbone: has 1 layer; adapters need 2; choose another model")
    return SafetyTrainingConfig(
        layers=tuple(range(max(first, count - uppermost), count)), feature_layer=feature, **options
    )


def safety_card(
    backbone: Backbone, trainer: SafetyTrainer, *, data_digest: str, metrics: dict[str, Any]
) -> SafetyCard:
    """Return the card of a trained safety adapter, with the command line of this process."""
    config = trainer.config
    return SafetyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(config.layers),
        kinds=list(config.kinds),
        rank=config.rank,
        scale=config.scale,
        basis=next(iter(trainer.bases.values())).shape[1],
        epsilon=config.epsilon,
        feature_layer=config.feature_layer,
        command=shlex.join([*PROG.split(), *sys.argv[1:]]),
        data_digest=data_digest,
        seed=config.seed,
        metrics=metrics,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    parser.add_argument("--curves", type=Path, help="folder of the training curve")
    parser.add_argument(
        "--value-head-only",
        action="store_true",
        help="fit the value head of the artifact in --out anew and keep its adapter",
    )
    parser.add_argument(
        "--adapters",
        type=Path,
        default=Path("adapters"),
        help="folder of adapters that the basis is orthogonal to",
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument(
        "--backbone", default=PACKAGED_MODEL, help="base model, as the router's setting names it"
    )
    parser.add_argument(
        "--layers", type=int, default=6, help="number of uppermost layers with sites"
    )
    parser.add_argument("--basis", type=int, default=64, help="dimensions of 576; 576: no basis")
    parser.add_argument("--epsilon", type=float, default=0.15, help="allowed violation")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--attacks", type=int, default=240, help="number of attacks")
    parser.add_argument("--harmless", type=int, default=120, help="number of harmless prompts")
    parser.add_argument(
        "--requests", type=int, default=600, help="requests of each kind for the value head"
    )
    parser.add_argument(
        "--measured", type=int, default=200, help="development requests of each kind, measured last"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and train."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.value_head_only:
        refit_value_head(options)
        return
    if options.curves is None:
        parser.error("--curves: is missing; name the folder of the training curve")
    train(options)


if __name__ == "__main__":
    main()
