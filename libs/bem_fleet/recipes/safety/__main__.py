"""Command line: ``python -m bem.training.safety --out adapters/safety``."""

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from bem.adapters import read_adapter
from bem.backbone import Backbone, load_backbone
from bem.safety import SafetyCard, ValueHead, save_safety
from bem.training.safety.plots import draw_curve
from bem.training.safety.trainer import SafetyPlan, SafetyTrainer
from bem.training.strategy import keep_freed_memory
from torch import Tensor

from bem_fleet.data.benign_prompts import load_benign_requests
from bem_fleet.data.red_team import load_red_team, sample_prompts
from bem_fleet.data.splits import assign_split
from bem_fleet.recipes.safety.examples import LONGEST, load_examples, mean_states

LONGEST_HARMLESS = 700


@dataclass(frozen=True)
class FittedValue:
    """A value head and how well it tells attacks from harmless requests it was not fitted on.

    Attributes:
        head: Fitted and calibrated.
        metrics: Share of development attacks above the threshold, of harmless ones, threshold.
    """

    head: ValueHead
    metrics: dict[str, float]


def fit_value(backbone: Backbone, feature_layer: int, count: int, cache: Path) -> FittedValue:
    """Fit the value head, and calibrate it on families and origins that it was not fitted on.

    Attacks are of the training split, a fifth of whose families calibrate; harmless requests are
    of the training and of the development split's origins.
    """
    attacks = sample_prompts(load_red_team(), "train", count, longest=LONGEST)
    found = {
        split: [p for p in load_benign_requests(split) if len(p.text) <= LONGEST_HARMLESS][:count]
        for split in ("train", "dev")
    }
    benign = [*found["train"], *found["dev"]]
    texts = [p.text for p in attacks] + [p.text for p in benign]
    risky = torch.tensor([True] * len(attacks) + [False] * len(benign))
    dev = torch.tensor(
        [assign_split(p.family, seed=1) == "held_out" for p in attacks]
        + [False] * len(found["train"])
        + [True] * len(found["dev"])
    )
    features = mean_states(backbone, texts, feature_layer, cache)
    head = ValueHead(features.shape[1])
    head.fit(features[~dev], risky[~dev])
    threshold = head.calibrate(features[dev & ~risky], features[dev & risky])
    with torch.no_grad():
        above = head(features) > 0
    return FittedValue(
        head,
        {
            "threshold": threshold,
            "full": float(head.full),
            "dev_attacks": float((dev & risky).sum()),
            "dev_attacks_found": float(above[dev & risky].float().mean()),
            "dev_harmless_found": float(above[dev & ~risky].float().mean()),
            "attacks": float((~dev & risky).sum()),
            "harmless": float((~dev & ~risky).sum()),
        },
    )


def adapter_outputs(backbone: Backbone, adapters: Path) -> dict[int, list[Tensor]]:
    """Return the output factors of all committed adapters, by layer."""
    found: dict[int, list[Tensor]] = {}
    for card in sorted(adapters.glob("*/card.json")):
        adapter = read_adapter(card.parent, base_digest=backbone.digest)
        for path, (_, b) in adapter.factors.items():
            found.setdefault(int(path.split(".")[2]), []).append(b.float())
    return found


def train(arguments: argparse.Namespace) -> None:
    """Train basis adapter and value head and write the artifact."""
    keep_freed_memory()
    backbone = load_backbone(dtype=arguments.dtype, cache=arguments.cache / "models")
    count = len(backbone.layers)
    plan = SafetyPlan(
        layers=tuple(range(count - arguments.layers, count)),
        basis=arguments.basis,
        epsilon=arguments.epsilon,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    examples = load_examples(
        backbone,
        first_layer=min(plan.layers),
        feature_layer=plan.feature_layer,
        attacks=arguments.attacks,
        harmless=arguments.harmless,
        cache=arguments.cache / "safety",
    )
    apart = adapter_outputs(backbone, arguments.adapters)
    trainer = SafetyTrainer(backbone, plan, arguments.curves, away_from=apart)
    last = trainer.run(examples)
    draw_curve(arguments.curves / "curve.jsonl", arguments.curves / "curve.png", plan.epsilon)
    value = fit_value(backbone, plan.feature_layer, arguments.requests, arguments.cache / "safety")
    tensors = trainer.tensors()
    tensors |= {f"value.{name}": tensor for name, tensor in value.head.state_dict().items()}
    card = SafetyCard(
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(plan.layers),
        kinds=list(plan.kinds),
        rank=plan.rank,
        scale=plan.scale,
        basis=next(iter(trainer.bases.values())).shape[1],
        epsilon=plan.epsilon,
        feature_layer=plan.feature_layer,
        command=shlex.join(["python", "-m", "bem.training.safety", *sys.argv[1:]]),
        data_digest=examples.digest,
        seed=plan.seed,
        metrics={"training": last, "value": value.metrics},
    )
    save_safety(arguments.out, card, tensors)
    sys.stdout.write(json.dumps(card.metrics, indent=1) + "\n")


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m bem.training.safety", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    parser.add_argument("--curves", type=Path, required=True, help="folder of the curve")
    parser.add_argument(
        "--adapters", type=Path, default=Path("adapters"), help="committed adapters"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--layers", type=int, default=6, help="the uppermost ones get sites")
    parser.add_argument("--basis", type=int, default=64, help="of 576; 576 is no basis at all")
    parser.add_argument("--epsilon", type=float, default=0.15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--attacks", type=int, default=240, help="attacks to learn from")
    parser.add_argument("--harmless", type=int, default=120, help="harmless prompts beside them")
    parser.add_argument("--requests", type=int, default=600, help="of each kind for the value head")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
