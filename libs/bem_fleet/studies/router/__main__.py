"""Command of the router's study: ``python -m bem_fleet.studies.router``.

It opens the held-out record questions once and compares the router with monoliths: each alone, the
better one under the router's own plans, and the best fixed plan. Monoliths that peft trained are
imported adapters and take part as folders. What is compared is chosen on development items before.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.adapters.artifact import read_adapter_card
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone, load_backbone
from bem.engine import LLMEngine
from bem.policy.actions import CONTRACTS, FIXED_PLAN, Plan, check_plan, parse_action
from bem.policy.artifact import PolicyArtifact, read_policy

from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.data.record_facts import ITEMS, generate_record_questions
from bem_fleet.evaluation.pipeline import Comparison, Report, evaluate, write_report
from bem_fleet.evaluation.systems import ComparisonSide, Decoding, EvaluationItem, SystemRun
from bem_fleet.recipes.router.plan_outcomes import REPLY_TOKENS
from bem_fleet.recipes.router.step_examples import MONOLITHS, PLAN_TASKS
from bem_fleet.studies.router.plan_system import (
    ChainSystem,
    PlanChooser,
    PlanSystem,
    always,
    by_policy,
)

PROG = "python -m bem_fleet.studies.router"
SPLITS = ("dev", HELD_OUT)


@dataclass(frozen=True)
class RouterFolders:
    """Artifacts of one comparison.

    Attributes:
        tasks: Folder with the adapters of the plans' tasks.
        monoliths: Folder of each monolith, by its task.
        policy: Folder of the policy.
    """

    tasks: Path
    monoliths: dict[str, Path]
    policy: Path


def compare(
    backbone: Backbone,
    folders: RouterFolders,
    items: Sequence[EvaluationItem],
    *,
    split: str,
    command: str,
    fixed: Plan = FIXED_PLAN,
    cache: Path | None = None,
) -> Report:
    """Compare the router with monoliths and with a fixed plan.

    Args:
        backbone: Base model without sites.
        folders: Artifacts; at least one monolith.
        items: Record questions; the main baseline is the first monolith.
        split: Split of the items, for the report.
        command: Command line, for the report.
        fixed: Best fixed plan, chosen on development items.
        cache: Folder of answers and scores of earlier runs.

    Raises:
        EvaluationError: An adapter is missing, or a system does not respond.
    """
    engine, names = _open_engine(backbone, folders)
    engine.start()
    try:
        policy = read_policy(folders.policy, base_digest=backbone.digest)
        mission, baselines = _sides(engine, names, policy, fixed)
        comparison = Comparison(
            id="router",
            mission=mission,
            baselines=baselines,
            items=tuple(items),
            data_name=f"record-facts, {split}",
            data_digest=policy.card.data_digest,
            command=command,
            unit="subject",
            decoding=Decoding(max_tokens=REPLY_TOKENS),
            confidence_note="Answered in process; one training seed a run of this command.",
        )
        return evaluate(comparison, cache=cache)
    finally:
        engine.close(drain=True)


def _sides(
    engine: LLMEngine, names: dict[str, str], policy: PolicyArtifact, fixed: Plan
) -> tuple[ComparisonSide, tuple[ComparisonSide, ...]]:
    """Return the router and the baselines, of which the first monolith is the main one."""
    seed = policy.card.seed
    tasks = {task: task for task in PLAN_TASKS}
    one_for_all = dict.fromkeys(CONTRACTS, next(iter(names.values())))

    def planned(
        name: str, chosen: tuple[PlanChooser, str], adapters: dict[str, str]
    ) -> ComparisonSide:
        system = PlanSystem(engine, name, chosen[0], identity=chosen[1], adapters=adapters)
        return ComparisonSide(name, (SystemRun(system, seed),), "verbatim")

    monoliths = tuple(
        ComparisonSide(task, (SystemRun(ChainSystem(engine, name, task), seed),), "verbatim")
        for task, name in names.items()
    )
    return planned("router", by_policy(policy), tasks), (
        *monoliths,
        planned("monolith under the router's plan", by_policy(policy), one_for_all),
        planned("fixed plan", always(fixed), tasks),
    )


def record_items(split: str, count: int) -> tuple[EvaluationItem, ...]:
    """Return record questions as items, by part, with the first fact's subject as cluster.

    Raises:
        HeldOutClosedError: The split is held out, and no final evaluation is running.
    """
    return tuple(
        EvaluationItem(
            record.key,
            f"{record.passage}\n\n{record.question}",
            record.answers,
            str(record.labels["part"]),
            cluster=str(record.labels["cluster"]),
        )
        for record in generate_record_questions(split, SPLIT_SEEDS[split].start, count)
    )


def _open_engine(backbone: Backbone, folders: RouterFolders) -> tuple[LLMEngine, dict[str, str]]:
    """Return an engine with all adapters, not started, and the name of each monolith."""
    paths = [folders.tasks / task for task in PLAN_TASKS]
    cards = [read_adapter_card(path) for path in (*paths, *folders.monoliths.values())]
    bank = AdapterBank(
        backbone,
        layers=cards[0].layers,
        rank=max(card.rank for card in cards),
        slots=len(cards),
        feature_layer=cards[0].feature_layer,
    )
    for path in paths:
        bank.load(path)
    names = {task: bank.load(path).name for task, path in folders.monoliths.items()}
    engine = LLMEngine(backbone, bank, max_sequences=16, max_waiting=4096, context_tokens=2048)
    return engine, names


def run(arguments: argparse.Namespace) -> None:
    """Compare on development items, or once on held-out items, and write the report."""
    backbone = load_backbone(cache=arguments.cache / "models")
    monoliths = {
        task: folder
        for task, folder in zip(MONOLITHS, (arguments.direct, arguments.chain), strict=True)
        if folder
    }
    fixed = tuple(parse_action(one) for one in arguments.fixed) or FIXED_PLAN
    check_plan(fixed)
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    count = arguments.items or ITEMS[arguments.split]
    with final_evaluation(command) as opening:
        report = compare(
            backbone,
            RouterFolders(arguments.tasks, monoliths, arguments.policy),
            record_items(arguments.split, count),
            split=arguments.split,
            command=command,
            fixed=fixed,
            cache=arguments.cache / "evaluation" / arguments.report.name,
        )
    report["held_out"] = opening.counts
    for path in write_report(report, arguments.report):
        sys.stdout.write(f"{path}\n")


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--tasks", type=Path, required=True, help="folder of the tasks' adapters")
    parser.add_argument("--policy", type=Path, required=True, help="folder of the policy")
    parser.add_argument("--direct", type=Path, help="folder of the direct monolith")
    parser.add_argument("--chain", type=Path, help="folder of the chain monolith")
    parser.add_argument(
        "--fixed", nargs="*", default=[], help="best fixed plan of dev: one action a step"
    )
    parser.add_argument("--split", choices=SPLITS, default="dev")
    parser.add_argument("--items", type=int, default=0, help="number of items; 0: all")
    parser.add_argument("--report", type=Path, required=True, help="path without suffix")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parsed = parser.parse_args(arguments)
    if not (parsed.direct or parsed.chain):
        parser.error("--direct or --chain: at least one monolith is needed")
    run(parsed)


if __name__ == "__main__":
    main()
