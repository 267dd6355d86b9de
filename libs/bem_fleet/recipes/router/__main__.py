"""Command of the agentic router's recipes: ``python -m bem_fleet.recipes.router``."""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from bem.adapters.artifact import AdapterCard, save_adapter
from bem.adapters.bank import AdapterBank
from bem.adapters.site import TARGET_MODULES
from bem.backbone import Backbone, WeightFormat, load_backbone
from bem.engine import LLMEngine
from bem.engine.weight_autotune import select_format
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.artifact import save_policy
from bem.policy.plan_tree import PlanTree
from bem.policy.policy_training import PolicyTraining
from bem.training.activation_cache import EncodedExample
from bem.training.strategy import ComputeDtype, Strategy, retain_freed_memory
from bem.training.trainer import AdapterTrainer, TrainingConfig

from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.record_facts import ITEMS, generate_record_questions
from bem_fleet.data.records import Record
from bem_fleet.recipes.router.adapter_mixtures import (
    XLoraTraining,
    export_tasks,
    open_xlora,
    save_xlora,
    train_xlora,
)
from bem_fleet.recipes.router.plan_outcomes import (
    UNSCOPED_ACTIONS,
    compute_outcomes,
    join_outcomes,
    read_outcomes,
    save_outcomes,
)
from bem_fleet.recipes.router.policy_recipe import PolicyProvenance, make_policy
from bem_fleet.recipes.router.step_examples import (
    MONOLITHS,
    PLAN_TASKS,
    encode_examples,
    loss_tokens,
    step_examples,
    token_pairs,
)

PROG = "python -m bem_fleet.recipes.router"
CHECKPOINT_STEPS = 25
"""Steps between two checkpoints, so that an interrupted training loses little."""


def train(arguments: argparse.Namespace) -> None:
    """Train the adapters of some tasks, one after another, and write their artifacts.

    The examples of all tasks are encoded together, so that a prefix which several tasks share
    passes the lower layers once.
    """
    retain_freed_memory()
    records = _records("train", arguments.items)
    backbone = load_backbone(dtype=arguments.dtype, cache=arguments.cache / "models")
    count = len(backbone.layers)
    config = TrainingConfig(
        layers=tuple(range(count // 2, count)),
        kinds=tuple(arguments.sites),
        rank=arguments.rank,
        control=False,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        feature_layer=min(8, count // 2 - 1),
    )
    encoded = encode_examples(
        backbone,
        [one for task in arguments.task for one in step_examples(records, task)],
        first_layer=min(config.layers),
        feature_layer=config.feature_layer,
        folder=arguments.cache / "router-states",
        compute_dtype=arguments.compute_dtype,
    )
    for place, task in enumerate(arguments.task):
        examples = encoded[place * len(records) : (place + 1) * len(records)]
        _train_task(backbone, task, examples, config, arguments)


def _train_task(
    backbone: Backbone,
    task: str,
    examples: Sequence[EncodedExample],
    config: TrainingConfig,
    arguments: argparse.Namespace,
) -> None:
    trainer = AdapterTrainer(
        backbone,
        config,
        _training_folder(arguments, task),
        strategy=Strategy(compute_dtype=arguments.compute_dtype),
        save_steps=CHECKPOINT_STEPS,
    )
    trainer.run(examples)
    card = AdapterCard(
        name=task,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(config.layers),
        kinds=list(config.kinds),
        rank=config.rank,
        scale=config.scale,
        feature_layer=config.feature_layer,
        command=_command(),
        data_digest=_digest(_records("train", arguments.items)),
        seed=config.seed,
        metrics={"items": len(examples), "loss_tokens_per_epoch": loss_tokens(examples)},
    )
    save_adapter(arguments.out / task, card, trainer.tensors())
    sys.stdout.write(f"{arguments.out / task}: {len(examples)} examples\n")


def outcomes(arguments: argparse.Namespace) -> None:
    """Run all plans on the items of a split, or on one shard of them, and write the outcomes."""
    shard, shards = arguments.shard
    records = _records(arguments.split, arguments.items)[shard::shards]
    backbone, _ = select_format(
        load_backbone(cache=arguments.cache / "models"),
        arguments.weights,
        "auto",
        cache=arguments.cache / "kernels",
    )
    actions = (*DEFAULT_ACTIONS, *(UNSCOPED_ACTIONS if arguments.unscoped else ()))
    folders = [arguments.adapters / task for task in PLAN_TASKS]
    bank = AdapterBank.for_artifact(backbone, folders[0], slots=len(folders))
    for folder in folders:
        bank.load(folder)
    engine = LLMEngine(backbone, bank, max_sequences=16, max_waiting=4096, context_tokens=2048)
    engine.start()
    try:
        found = compute_outcomes(
            engine, records, PlanTree(actions), {task: task for task in PLAN_TASKS}
        )
    finally:
        engine.close(drain=True)
    save_outcomes(arguments.out, found)
    sys.stdout.write(f"{arguments.out}: {len(records)} items, {found.exact.shape[1]} plans\n")


def policy(arguments: argparse.Namespace) -> None:
    """Train the policy on outcomes and write its artifact."""
    backbone = load_backbone(cache=arguments.cache / "models")
    artifact = make_policy(
        backbone,
        join_outcomes([read_outcomes(path) for path in arguments.train]),
        join_outcomes([read_outcomes(path) for path in arguments.dev]),
        PolicyTraining(
            clone_steps=arguments.clone_steps, updates=arguments.updates, seed=arguments.seed
        ),
        PolicyProvenance(_command(), feature_layer=min(8, len(backbone.layers) // 2 - 1)),
    )
    card = save_policy(arguments.out, artifact)
    sys.stdout.write(json.dumps(card.metrics, indent=2) + "\n")


def xlora(arguments: argparse.Namespace) -> None:
    """Train the X-LoRA classifier over the tasks' adapters on whole questions and replies."""
    backbone = load_backbone(cache=arguments.cache / "models")
    records = _records("train", arguments.items)
    settings = XLoraTraining(
        epochs=arguments.epochs, learning_rate=arguments.learning_rate, seed=arguments.seed
    )
    sequences = token_pairs(backbone, step_examples(records, "monolith-direct"))
    with TemporaryDirectory() as exported:
        adapters = export_tasks(backbone, arguments.adapters, Path(exported))
        model = open_xlora(backbone, adapters, settings)
        measured = train_xlora(model, sequences, settings)
    save_xlora(arguments.out, model, settings, command=_command(), measured=measured)
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")


def _add_xlora(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("xlora", help="train X-LoRA over the tasks' adapters")
    command.add_argument("--adapters", type=Path, required=True, help="folder of the adapters")
    command.add_argument("--out", type=Path, required=True, help="folder of the classifier")
    command.add_argument("--epochs", type=int, default=3)
    command.add_argument("--learning-rate", type=float, default=1e-3)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=xlora)


def _training_folder(arguments: argparse.Namespace, task: str) -> Path:
    """Return the folder of a training's checkpoints; other settings have another one."""
    name = f"{task}-{arguments.rank}-{arguments.seed}-{arguments.learning_rate:g}"
    name += f"-{arguments.items or ITEMS['train']}x{arguments.epochs}"
    if len(arguments.sites) < len(TARGET_MODULES):
        name += f"-{arguments.sites[0]}"
    folder: Path = arguments.cache / "training" / f"router-{name}"
    return folder


def _records(split: str, items: int) -> list[Record]:
    return generate_record_questions(split, SPLIT_SEEDS[split].start, items or ITEMS[split])


def _digest(records: list[Record]) -> str:
    text = json.dumps([asdict(record) for record in records], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _command() -> str:
    return shlex.join([*PROG.split(), *sys.argv[1:]])


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that trains adapters."""
    command = commands.add_parser("train", help="train the adapters of tasks")
    command.add_argument("--task", choices=[*PLAN_TASKS, *MONOLITHS], nargs="+", required=True)
    command.add_argument("--out", type=Path, required=True, help="folder of the adapters")
    command.add_argument("--rank", type=int, default=4)
    command.add_argument(
        "--sites", nargs="+", choices=list(TARGET_MODULES), default=list(TARGET_MODULES)
    )
    command.add_argument("--epochs", type=int, default=3)
    command.add_argument("--learning-rate", type=float, default=2e-3)
    command.add_argument("--dtype", default="bfloat16", help="dtype of the base model")
    command.add_argument(
        "--compute-dtype",
        choices=get_args(ComputeDtype),
        default="auto",
        help="dtype of matrix products; auto measures, which a busy machine disturbs",
    )
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train)


def _add_outcomes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that runs all plans."""
    command = commands.add_parser("outcomes", help="run all plans on the items of a split")
    command.add_argument("--split", choices=["train", "dev"], required=True)
    command.add_argument("--adapters", type=Path, required=True, help="folder of the adapters")
    command.add_argument("--out", type=Path, required=True, help="path without suffix")
    command.add_argument(
        "--weights",
        choices=get_args(WeightFormat),
        default="fp32",
        help="weight format of the base model; that of the router's replicas is the faithful one",
    )
    command.add_argument(
        "--unscoped", action="store_true", help="also last steps that see the passages"
    )
    command.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        help="K/N: only each N-th item from the K-th on, from 0; processes of one thread each do "
        "more together than one of all threads",
    )
    command.set_defaults(run=outcomes)


def _shard(text: str) -> tuple[int, int]:
    """Return the number of a shard and the count of shards."""
    shard, shards = map(int, text.split("/"))
    if not 0 <= shard < shards:
        raise ValueError(text)
    return shard, shards


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--items", type=int, default=0, help="number of items; 0: all")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_outcomes(commands)
    _add_xlora(commands)
    command = commands.add_parser("policy", help="train the policy on outcomes")
    for split in ("train", "dev"):
        command.add_argument(
            f"--{split}", type=Path, nargs="+", required=True, help=f"outcomes of {split}"
        )
    command.add_argument("--out", type=Path, required=True, help="folder of the policy")
    command.add_argument("--clone-steps", type=int, default=300)
    command.add_argument("--updates", type=int, default=100)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=policy)
    parsed = parser.parse_args(arguments)
    parsed.run(parsed)


if __name__ == "__main__":
    main()
