"""Command of the router's study: ``python -m bem_fleet.studies.router``.

It opens the held-out record questions once and compares the router with monoliths: each alone, the
better one under the router's own plans, and the best fixed plan. Monoliths that peft trained are
imported adapters and take part as folders. What is compared is chosen on development items before.

Several folders behind an option are training seeds: one report, with intervals over seeds and
subjects. The regret by stage runs all plans on all items; ``--no-regret`` leaves it out.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bem.policy.actions import CONTRACTS, FIXED_PLAN, Plan, check_plan, parse_action

from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.held_out import HELD_OUT, final_evaluation
from bem_fleet.data.record_facts import ITEMS, generate_record_questions
from bem_fleet.data.records import Record
from bem_fleet.evaluation.pipeline import Comparison, Report, evaluate, write_report
from bem_fleet.evaluation.systems import (
    ComparisonSide,
    Decoding,
    EvaluationItem,
    System,
    SystemRun,
)
from bem_fleet.recipes.router.plan_outcomes import REPLY_TOKENS
from bem_fleet.recipes.router.step_examples import MONOLITHS
from bem_fleet.studies.router.plan_system import ChainSystem, PlanSystem, always, by_policy
from bem_fleet.studies.router.seed_runs import RouterFolders, SeedRun, open_seed_runs
from bem_fleet.studies.router.stage_regret import (
    ADAPTERS,
    regret_markdown,
    regret_report,
    stage_scores,
)

PROG = "python -m bem_fleet.studies.router"
SPLITS = ("dev", HELD_OUT)
_ONE_SEED = "Answered in process; one training seed: no interval includes the spread over seeds."


def compare(
    runs: Sequence[SeedRun],
    items: Sequence[EvaluationItem],
    *,
    split: str,
    command: str,
    fixed: Plan = FIXED_PLAN,
    cache: Path | None = None,
) -> Report:
    """Compare the router with monoliths and with a fixed plan.

    Args:
        runs: Training seeds, all with the same monoliths, of which the first is the main baseline.
        items: Record questions.
        split: Split of the items, for the report.
        command: Command line, for the report.
        fixed: Best fixed plan, chosen on development items.
        cache: Folder of answers and scores of earlier runs.

    Raises:
        EvaluationError: An adapter is missing, or a system does not respond.
    """
    mission, *baselines = _sides(runs, fixed)
    comparison = Comparison(
        id="router",
        mission=mission,
        baselines=tuple(baselines),
        items=tuple(items),
        data_name=f"record-facts, {split}",
        data_digest=",".join(dict.fromkeys(run.policy.card.data_digest for run in runs)),
        command=command,
        unit="subject",
        decoding=Decoding(max_tokens=REPLY_TOKENS),
        confidence_note="Answered in process." if len(runs) > 1 else _ONE_SEED,
    )
    return evaluate(comparison, cache=cache)


def _sides(runs: Sequence[SeedRun], fixed: Plan) -> list[ComparisonSide]:
    """Return the router, the monoliths, and the other users of plans; a side has all seeds."""

    def side(name: str, make: Callable[[SeedRun], System]) -> ComparisonSide:
        made = tuple(SystemRun(make(run), run.seed) for run in runs)
        return ComparisonSide(name, made, "verbatim")

    def router(run: SeedRun) -> System:
        choose, identity = by_policy(run.policy)
        return PlanSystem(run.engine, "router", choose, identity=identity, adapters=ADAPTERS)

    def chain(task: str) -> Callable[[SeedRun], System]:
        return lambda run: ChainSystem(run.engine, run.monoliths[task], task)

    def one_for_all(run: SeedRun) -> System:
        choose, identity = by_policy(run.policy)
        adapters = dict.fromkeys(CONTRACTS, next(iter(run.monoliths.values())))
        return PlanSystem(run.engine, planned, choose, identity=identity, adapters=adapters)

    def same_plan(run: SeedRun) -> System:
        choose, identity = always(fixed)
        return PlanSystem(run.engine, "fixed plan", choose, identity=identity, adapters=ADAPTERS)

    def mixture(name: str) -> Callable[[SeedRun], System]:
        return lambda run: run.mixtures[name]

    planned = "monolith under the router's plan"
    return [
        side("router", router),
        *(side(task, chain(task)) for task in runs[0].monoliths),
        side(planned, one_for_all),
        side("fixed plan", same_plan),
        *(side(name, mixture(name)) for name in runs[0].mixtures),
    ]


def record_items(records: Sequence[Record]) -> tuple[EvaluationItem, ...]:
    """Return record questions as items, by part, with the first fact's subject as cluster."""
    return tuple(
        EvaluationItem(
            record.key,
            f"{record.passage}\n\n{record.question}",
            record.answers,
            str(record.labels["part"]),
            cluster=str(record.labels["cluster"]),
        )
        for record in records
    )


def run(arguments: argparse.Namespace) -> None:
    """Compare on development items, or once on held-out items, and write the report."""
    fixed = tuple(parse_action(one) for one in arguments.fixed) or FIXED_PLAN
    check_plan(fixed)
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    count = arguments.items or ITEMS[arguments.split]
    with (
        open_seed_runs(_folders(arguments), arguments.cache / "models") as runs,
        final_evaluation(command) as opening,
    ):
        records = generate_record_questions(
            arguments.split, SPLIT_SEEDS[arguments.split].start, count
        )
        items = record_items(records)
        report = compare(
            runs,
            items,
            split=arguments.split,
            command=command,
            fixed=fixed,
            cache=arguments.cache / "evaluation" / arguments.report.name,
        )
        if arguments.regret:
            scores = [stage_scores(one, records) for one in runs]
            report["regret"] = regret_report(scores, [item.cluster for item in items])
    report["held_out"] = opening.counts
    paths = write_report(report, arguments.report)
    if arguments.regret:
        with paths[1].open("a", encoding="utf-8") as page:
            page.write("\n".join(regret_markdown(report["regret"])) + "\n")
    for path in paths:
        sys.stdout.write(f"{path}\n")


def _folders(arguments: argparse.Namespace) -> list[RouterFolders]:
    """Return the artifacts of each seed, in the order of the options."""
    given = dict(zip(MONOLITHS, (arguments.direct, arguments.chain), strict=True))
    return [
        RouterFolders(
            tasks,
            {task: folders[place] for task, folders in given.items() if folders},
            policy,
            xlora=arguments.xlora[place] if arguments.xlora else None,
            arrow=arguments.arrow,
        )
        for place, (tasks, policy) in enumerate(zip(arguments.tasks, arguments.policy, strict=True))
    ]


def _check_folders(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End the command if there is no monolith, or a seed lacks a folder."""
    if not (parsed.direct or parsed.chain):
        parser.error("--direct or --chain: at least one monolith is needed")
    for option in ("policy", "direct", "chain", "xlora"):
        if len(getattr(parsed, option)) not in {0, len(parsed.tasks)}:
            parser.error(
                f"--{option}: {len(getattr(parsed, option))} folders for {len(parsed.tasks)} "
                "seeds; give one for each folder of --tasks, in the same order"
            )


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    for option, needed, meaning in (
        ("--tasks", True, "folder of the tasks' adapters"),
        ("--policy", True, "folder of the policy"),
        ("--direct", False, "folder of the direct monolith"),
        ("--chain", False, "folder of the chain monolith"),
        ("--xlora", False, "folder of the X-LoRA classifier over the tasks' adapters"),
    ):
        parser.add_argument(
            option,
            type=Path,
            nargs="+",
            default=[],
            required=needed,
            help=f"{meaning}; one for each training seed",
        )
    parser.add_argument(
        "--fixed", nargs="*", default=[], help="best fixed plan of dev: one action a step"
    )
    parser.add_argument("--arrow", action="store_true", help="compare with Arrow too")
    parser.add_argument("--split", choices=SPLITS, default="dev")
    parser.add_argument("--items", type=int, default=0, help="number of items; 0: all")
    parser.add_argument(
        "--regret",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="regret by stage, which runs all plans",
    )
    parser.add_argument("--report", type=Path, required=True, help="path without suffix")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parsed = parser.parse_args(arguments)
    _check_folders(parser, parsed)
    run(parsed)


if __name__ == "__main__":
    main()
