"""Training and evaluation command: ``python -m bem_fleet.recipes.passage_qa``."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from bem.adapters.artifact import record_metrics, save_adapter
from bem.adapters.site import TARGET_MODULES
from bem.adapters.site_variants import VARIANTS, ParityRow, parity_rows
from bem.backbone import load_backbone
from bem.training.activation_cache import EncodedExample, encode_items
from bem.training.memory_budget import MemoryOptimizer, largest_batch
from bem.training.strategy import Strategy, retain_freed_memory
from bem.training.trainer import AdapterTrainer, TrainingConfig

from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.data.passage_qa import few_shot_examples, load_passage_qa
from bem_fleet.evaluation.pipeline import write_report
from bem_fleet.recipes.adapter_cards import adapter_card
from bem_fleet.recipes.passage_qa.evaluate import evaluate
from bem_fleet.recipes.passage_qa.seeds import compare_seeds

PROG = "python -m bem_fleet.recipes.passage_qa"
DATA_SETS = {"passage-qa": load_passage_qa}
"""Loader of the training data of each adapter."""


def train(arguments: argparse.Namespace) -> None:
    """Train an adapter and write its artifact."""
    retain_freed_memory()
    data = DATA_SETS[arguments.adapter](0)
    backbone = load_backbone(dtype=arguments.dtype, cache=arguments.cache / "models")
    count = len(backbone.layers)
    config = TrainingConfig(
        layers=tuple(range(count // 2, count)),
        epochs=arguments.epochs,
        seed=arguments.seed,
        variant=arguments.variant,
    )
    examples = encode_items(
        backbone,
        data.splits["train"][: arguments.limit],
        first_layer=min(config.layers),
        feature_layer=config.feature_layer,
        folder=arguments.cache / "features",
    )
    run = [arguments.adapter, str(arguments.seed)]
    if config.variant != "plain":
        run.append(config.variant)
    folder = arguments.cache / "training" / "-".join(run)
    strategy = Strategy(
        compute_dtype=arguments.compute_dtype,
        row_tokens=arguments.row_tokens,
        recompute=arguments.recompute,
    )
    trainer = AdapterTrainer(
        backbone, config, folder, strategy=strategy, save_steps=arguments.save_steps
    )
    if arguments.memory_mib:
        select_strategy(trainer, examples, arguments.memory_mib)
    trainer.run(examples)
    card = adapter_card(
        trainer, name=arguments.adapter, data_digest=data.digest, command=_command()
    )
    save_adapter(arguments.out, card, trainer.tensors())
    sys.stdout.write(f"{arguments.out}: {len(examples)} examples, {trainer.step} steps\n")


def print_parity(arguments: argparse.Namespace) -> None:
    """Print parameters and multiplications of every variant beside the plain site's."""
    backbone = load_backbone(cache=arguments.cache / "models")
    config = backbone.model.config
    shapes = {
        kind: (module.in_features, module.out_features)
        for kind, path in TARGET_MODULES.items()
        for module in [backbone.layers[0].get_submodule(path)]
    }
    head = config.hidden_size // config.num_attention_heads
    rows = parity_rows(shapes, arguments.rank, head=head)
    lines = [
        "| variant | site | parameters | multiplications | served rank | within 5 % |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(_parity_line, rows),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _parity_line(row: ParityRow) -> str:
    return (
        f"| {row.variant} | {row.kind} | {row.cost.parameters} ({row.parameters_share:+.1%}) | "
        f"{row.cost.multiplications} ({row.multiplications_share:+.1%}) | {row.served_rank} | "
        f"{'yes' if row.at_parity else 'no'} |"
    )


def select_strategy(
    trainer: AdapterTrainer, examples: list[EncodedExample], memory_mib: int
) -> None:
    """Select the fastest strategy within a memory budget and print the measurements."""
    optimizer = MemoryOptimizer(memory_mib << 20)
    for one in optimizer.select(trainer, largest_batch(examples, trainer.config.batch)):
        mark = "used" if one.strategy == trainer.strategy else "fits" if one.fits else "over"
        sys.stdout.write(
            f"{mark}: {one.peak_bytes >> 20} MiB, {one.seconds:.2f} s a step, "
            f"rows of {one.strategy.row_tokens}, recompute {one.strategy.recompute}\n"
        )


def evaluate_adapter(arguments: argparse.Namespace) -> None:
    """Evaluate an adapter on the held-out split; write the figures to its card and a report."""
    data = DATA_SETS[arguments.adapter](0)
    backbone = load_backbone(cache=arguments.cache / "models")
    shots = few_shot_examples(data)
    with final_evaluation(_command()) as opening:
        result = evaluate(backbone, arguments.out, data.splits[HELD_OUT], shots)
    result["held_out"] = opening.counts
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    measured = {key: result[key] for key in ("figures", "differences")}
    record_metrics(arguments.out, measured)
    sys.stdout.write(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def evaluate_seeds(arguments: argparse.Namespace) -> None:
    """Compare several training seeds of an adapter with its base and write the report."""
    with final_evaluation(_command()) as opening:
        report = compare_seeds(
            load_backbone(cache=arguments.cache / "models"),
            arguments.artifacts,
            DATA_SETS[arguments.adapter](0),
            name=arguments.report.name,
            command=_command(),
            cache=arguments.cache / "evaluation" / arguments.report.name,
            limit=arguments.limit,
        )
    report["held_out"] = opening.counts
    for path in write_report(report, arguments.report):
        sys.stdout.write(f"{path}\n")


def _command() -> str:
    return shlex.join([*PROG.split(), *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train an adapter"))
    _add_evaluate(commands.add_parser("evaluate", help="compare an adapter with its base"))
    _add_parity(commands.add_parser("parity", help="size of every variant of the sites"))
    _add_seeds(commands.add_parser("seeds", help="compare several seeds with the base"))
    parsed = parser.parse_args(arguments)
    parsed.run(parsed)


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapter", choices=sorted(DATA_SETS), required=True)
    command.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.add_argument("--dtype", default="bfloat16", help="dtype of the base model")
    command.add_argument(
        "--variant", choices=VARIANTS, default="plain", help="parameterisation of the sites"
    )
    command.add_argument("--limit", type=int, default=None, help="largest number of examples")
    command.add_argument("--epochs", type=int, default=4)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--compute-dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    command.add_argument(
        "--row-tokens", type=int, default=4096, help="largest number of tokens of a packed row"
    )
    command.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    command.add_argument(
        "--memory-mib",
        type=int,
        default=0,
        help="select --row-tokens and --recompute by measurement within this budget; 0: as given",
    )
    command.add_argument(
        "--save-steps", type=int, default=0, help="steps between checkpoints; 0: one per epoch"
    )
    command.set_defaults(run=train)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapter", choices=sorted(DATA_SETS), required=True)
    command.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    command.add_argument("--report", type=Path, required=True, help="JSON file to write")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.set_defaults(run=evaluate_adapter)


def _add_parity(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rank", type=int, default=16, help="rank of the plain site")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.set_defaults(run=print_parity)


def _add_seeds(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapter", choices=sorted(DATA_SETS), required=True)
    command.add_argument(
        "--artifacts", type=Path, nargs="+", required=True, help="one folder per seed"
    )
    command.add_argument(
        "--report", type=Path, required=True, help="path of the three files without suffix"
    )
    command.add_argument("--limit", type=int, help="largest number of items")
    command.add_argument("--cache", type=Path, default=Path(".cache"))
    command.set_defaults(run=evaluate_seeds)


if __name__ == "__main__":
    main()
