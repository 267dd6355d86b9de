"""Command line: ``python -m bem.training train --adapter passage-qa --out adapters/passage-qa``."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from bem.adapters.artifact import AdapterCard, save_adapter, state_metrics
from bem.backbone import load_backbone
from bem.training.features import Example, cache_examples
from bem.training.memory import MemoryOptimizer, largest_batch
from bem.training.strategy import Strategy, keep_freed_memory
from bem.training.trainer import AdapterTrainer, TrainingPlan

from bem_fleet.data.passage_qa import few_shot_examples, load_passage_qa
from bem_fleet.evaluation.pipeline import write_report
from bem_fleet.recipes.passage_qa.evaluate import evaluate
from bem_fleet.recipes.passage_qa.seeds import compare_seeds

ADAPTERS = {"passage-qa": load_passage_qa}


def train(arguments: argparse.Namespace) -> None:
    """Train an adapter and write its artifact."""
    keep_freed_memory()
    data = ADAPTERS[arguments.adapter](0)
    backbone = load_backbone(dtype=arguments.dtype, cache=arguments.cache / "models")
    count = len(backbone.layers)
    plan = TrainingPlan(
        layers=tuple(range(count // 2, count)), epochs=arguments.epochs, seed=arguments.seed
    )
    examples = cache_examples(
        backbone,
        data.splits["train"],
        first_layer=min(plan.layers),
        feature_layer=plan.feature_layer,
        folder=arguments.cache / "features",
    )
    folder = arguments.cache / "training" / f"{arguments.adapter}-{arguments.seed}"
    strategy = Strategy(
        arithmetic=arguments.arithmetic,
        row_tokens=arguments.row_tokens,
        recompute=arguments.recompute,
    )
    trainer = AdapterTrainer(
        backbone, plan, folder, strategy=strategy, save_steps=arguments.save_steps
    )
    if arguments.memory_mib:
        fit(trainer, examples, arguments.memory_mib)
    trainer.run(examples)
    command = shlex.join(["python", "-m", "bem.training", *sys.argv[1:]])
    card = AdapterCard(
        name=arguments.adapter,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(plan.layers),
        kinds=list(plan.kinds),
        rank=plan.rank,
        scale=plan.scale,
        feature_layer=plan.feature_layer,
        command=command,
        data_digest=data.digest,
        seed=plan.seed,
    )
    save_adapter(arguments.out, card, trainer.tensors())
    sys.stdout.write(f"{arguments.out}: {len(examples)} examples, {trainer.step} steps\n")


def fit(trainer: AdapterTrainer, examples: list[Example], memory_mib: int) -> None:
    """Choose the strategy by measurement and say what was measured."""
    optimizer = MemoryOptimizer(memory_mib << 20)
    for one in optimizer.fit(trainer, largest_batch(examples, trainer.plan.batch)):
        mark = "used" if one.strategy == trainer.strategy else "fits" if one.fits else "over"
        sys.stdout.write(
            f"{mark}: {one.peak_bytes >> 20} MiB, {one.seconds:.2f} s a step, "
            f"rows of {one.strategy.row_tokens}, recompute {one.strategy.recompute}\n"
        )


def judge(arguments: argparse.Namespace) -> None:
    """Evaluate an adapter on the held-out split; its figures go into its card and a report."""
    data = ADAPTERS[arguments.adapter](0)
    backbone = load_backbone(cache=arguments.cache / "models")
    shots = few_shot_examples(data)
    result = evaluate(backbone, arguments.out, data.splits["held_out"], shots)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    measured = {key: result[key] for key in ("figures", "differences")}
    state_metrics(arguments.out, measured)
    sys.stdout.write(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def judge_seeds(arguments: argparse.Namespace) -> None:
    """Compare several seeds of an adapter with its base and write the report."""
    report = compare_seeds(
        load_backbone(cache=arguments.cache / "models"),
        arguments.artifacts,
        ADAPTERS[arguments.adapter](0),
        name=arguments.report.name,
        command=shlex.join(["python", "-m", "bem.training", *sys.argv[1:]]),
        cache=arguments.cache / "evaluation" / arguments.report.name,
        limit=arguments.limit,
    )
    for path in write_report(report, arguments.report):
        sys.stdout.write(f"{path}\n")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bem.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train an adapter")
    command.add_argument("--adapter", choices=sorted(ADAPTERS), required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.add_argument("--dtype", default="bfloat16")
    command.add_argument("--epochs", type=int, default=4)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--arithmetic", default="auto", choices=["auto", "float32", "bfloat16"])
    command.add_argument("--row-tokens", type=int, default=4096, help="tokens of a packed row")
    command.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    command.add_argument(
        "--memory-mib",
        type=int,
        default=0,
        help="choose rows and recomputing by measurement within this; 0: as given",
    )
    command.add_argument("--save-steps", type=int, default=0, help="0: after every epoch")
    command.set_defaults(run=train)
    command = commands.add_parser("evaluate", help="compare an adapter with its base")
    command.add_argument("--adapter", choices=sorted(ADAPTERS), required=True)
    command.add_argument("--out", type=Path, required=True, help="the artifact")
    command.add_argument("--report", type=Path, required=True)
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.set_defaults(run=judge)
    command = commands.add_parser("seeds", help="compare several seeds of an adapter with its base")
    command.add_argument("--adapter", choices=sorted(ADAPTERS), required=True)
    command.add_argument("--artifacts", type=Path, nargs="+", required=True, help="one a seed")
    command.add_argument("--report", type=Path, required=True, help="stem of the three files")
    command.add_argument("--limit", type=int, help="items at most")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.set_defaults(run=judge_seeds)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
