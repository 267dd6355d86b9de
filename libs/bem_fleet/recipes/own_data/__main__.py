"""Training and comparison command: ``python -m bem_fleet.recipes.own_data``."""

import argparse
import hashlib
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from bem.adapters.artifact import NAME_PATTERN, record_metrics, save_adapter
from bem.adapters.site import TARGET_MODULES
from bem.backbone import PACKAGED_MODEL, Backbone, load_backbone
from bem.errors import ArtifactFormatError, BemError
from bem.training.checkpoints import CHECKPOINT_FILE
from bem.training.early_stopping import EarlyStopping
from bem.training.strategy import retain_freed_memory
from bem.training.trainer import AdapterTrainer

from bem_fleet.checkout import ROOT
from bem_fleet.data.instruction_files import Instruction, data_digest, refuse_shared
from bem_fleet.data.instruction_folders import read_data
from bem_fleet.recipes.adapter_cards import adapter_card
from bem_fleet.recipes.own_data.comparison import (
    BASE,
    ComparedModels,
    compare_models,
    render_comparison,
    require_enough,
)
from bem_fleet.recipes.own_data.training import (
    Estimate,
    encode,
    estimate,
    make_config,
    run_training,
    tokenise,
)

DONE, REFUSED = 0, 1


def train(arguments: argparse.Namespace) -> None:
    """Validate the data, print counts and an estimate, train, and write adapter and report."""
    retain_freed_memory()
    name = _adapter_name(arguments.out)
    data = read_data(arguments.data)
    held = read_data(arguments.eval) if arguments.eval else []
    if held:
        require_enough(held, arguments.eval.name)
        refuse_shared(data, held, arguments.eval.name)
    backbone = load_backbone(
        arguments.base, dtype=arguments.dtype, cache=arguments.cache / "models"
    )
    pairs, counts = tokenise(backbone, data, arguments.max_tokens)
    print(counts.text(arguments.data.name))
    trainer = _trainer(arguments, backbone, data_digest([*data, *held]))
    stopping = _stopping(arguments, trainer, held) if held else None
    print(_estimate_text(estimate(trainer, pairs), arguments.epochs))
    if arguments.check:
        return
    examples = encode(trainer, pairs, arguments.cache / "features", progress=True)
    tensors = run_training(trainer, examples, stopping)
    card = adapter_card(
        trainer, name=name, data_digest=data_digest(data), command=_command(arguments)
    )
    save_adapter(arguments.out, card, tensors)
    print(f"{arguments.out}: {counts.items} examples, {trainer.step} steps")
    if stopping:
        losses = " ".join(f"{loss:.3f}" for loss in stopping.losses)
        print(f"evaluation loss by epoch: {losses}; epoch {stopping.best_epoch} is kept")
        _report(arguments, str(arguments.out), BASE, held)


def _trainer(arguments: argparse.Namespace, backbone: Backbone, digest: str) -> AdapterTrainer:
    """Return the trainer of a run; equal data and options resume the run of before."""
    config = make_config(
        backbone,
        rank=arguments.rank,
        kinds=arguments.targets,
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        scale=arguments.alpha / arguments.rank,
        seed=arguments.seed,
    )
    stated = json.dumps([backbone.digest, digest, asdict(config)])
    run = hashlib.sha256(stated.encode()).hexdigest()[:16]
    folder = arguments.cache / "training" / f"own-{run}"
    trainer = AdapterTrainer(backbone, config, folder, save_steps=arguments.save_steps)
    if (folder / CHECKPOINT_FILE).is_file():
        print(f"resuming the run of the same data and options in {folder}")
    return trainer


def _stopping(
    arguments: argparse.Namespace, trainer: AdapterTrainer, held: list[Instruction]
) -> EarlyStopping:
    pairs, counts = tokenise(trainer.backbone, held, arguments.max_tokens)
    print(counts.text(arguments.eval.name))
    return EarlyStopping(trainer, encode(trainer, pairs, None, progress=False), arguments.patience)


def evaluate(arguments: argparse.Namespace) -> None:
    """Compare two models on the items of a file and write the report."""
    _report(arguments, arguments.model, arguments.baseline, read_data(arguments.data))


def _report(
    arguments: argparse.Namespace, model: str, baseline: str, items: list[Instruction]
) -> None:
    models = ComparedModels(arguments.base, arguments.cache, model, baseline)
    report = compare_models(models, items, max_tokens=arguments.reply_tokens)
    path = arguments.report or Path(f"{Path(model).name}.report.json")
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = render_comparison(report)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    if model != BASE and baseline == BASE:
        measured = {key: report[key] for key in ("n_items", "data", "metrics")}
        record_metrics(Path(model), {"own_data": measured})
    print(f"{text}\n{path} and {path.with_suffix('.md').name} have the scores of each item")


def _adapter_name(out: Path) -> str:
    name = out.resolve().name
    if not NAME_PATTERN.fullmatch(name):
        raise ArtifactFormatError(
            f"out: {name!r} is no adapter name; it must match {NAME_PATTERN.pattern}"
        )
    return name


def _estimate_text(found: Estimate, epochs: int) -> str:
    return (
        f"estimate: about {_duration(found.total_s)} at most: {_duration(found.prepare_s)} for the "
        f"frozen layers once, then {found.steps} steps of {found.step_s:.2f} s in {epochs} epochs"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _command(arguments: argparse.Namespace) -> str:
    return shlex.join(["fleetctl", *arguments.words])


def _targets(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in TARGET_MODULES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown) or 'nothing'} cannot be trained; {', '.join(TARGET_MODULES)} can"
        )
    return names


def main(words: list[str] | None = None) -> int:
    """Run the command; return 0 if it is done and 1 if the data or a model is refused."""
    given = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(prog="fleetctl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train an adapter on JSON Lines"))
    _add_evaluate(commands.add_parser("evaluate", help="compare two models on JSON Lines"))
    arguments = parser.parse_args(given)
    arguments.words = given
    try:
        arguments.run(arguments)
    except BemError as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return REFUSED
    return DONE


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        help="training data: JSONL, Parquet or a datasets folder",
    )
    command.add_argument(
        "--eval", type=Path, help="evaluation data, as --data: early stopping, report"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the new adapter")
    command.add_argument("--rank", type=int, default=16)
    command.add_argument("--alpha", type=float, default=32.0, help="scale of the factors x rank")
    command.add_argument(
        "--targets", type=_targets, default=list(TARGET_MODULES), help="modules, by commas"
    )
    command.add_argument("--epochs", type=int, default=4)
    command.add_argument("--batch", type=int, default=8, help="examples in one step")
    command.add_argument("--learning-rate", type=float, default=1e-3)
    command.add_argument("--patience", type=int, default=1, help="epochs without gain, with --eval")
    command.add_argument("--max-tokens", type=int, default=1024, help="longest example, tokens")
    command.add_argument("--save-steps", type=int, default=0, help="steps between checkpoints")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--dtype", default="bfloat16", help="dtype of the base model")
    command.add_argument("--check", action="store_true", help="end after counts and estimate")
    _add_shared(command)
    command.set_defaults(run=train)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", type=Path, required=True, help="items: JSONL, Parquet or a datasets folder"
    )
    command.add_argument("--model", required=True, help=f"folder of an adapter, or {BASE}")
    command.add_argument("--baseline", default=BASE, help="the other one; the base without it")
    _add_shared(command)
    command.set_defaults(run=evaluate)


def _add_shared(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", default=PACKAGED_MODEL, help="base model")
    command.add_argument("--report", type=Path, help="JSON file to write; NAME.report.json")
    command.add_argument("--reply-tokens", type=int, default=64, help="longest greedy reply")
    command.add_argument("--cache", type=Path, default=ROOT / ".cache")


if __name__ == "__main__":
    sys.exit(main())
