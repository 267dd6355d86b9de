"""Ablations of the router on outcome tables: ``python -m bem_fleet.studies.router.plan_ablations``.

Every variant trains a policy for each training seed on the outcomes of training items and is
measured on those of development items; nothing is generated. Variants of the policy (horizon,
scopes, cloning, cache term) read one table. Variants of the adapters (rank, sites) have tables of
their own, which ``python -m bem_fleet.recipes.router outcomes`` makes from adapters that were
trained with ``--rank`` or ``--sites``. Intervals are over seeds and subjects.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bem.errors import EvaluationError
from bem.policy.actions import parse_action
from bem.policy.features import fit_projection
from bem.policy.policy_training import PolicyTraining, train_policy
from numpy.typing import NDArray
from torch import Tensor

from bem_fleet.evaluation.report_rendering import render_json
from bem_fleet.evaluation.score_comparison import metric_difference
from bem_fleet.recipes.router.plan_outcomes import UNSCOPED_ACTIONS, PlanOutcomes, read_outcomes
from bem_fleet.recipes.router.policy_recipe import (
    COMPONENTS,
    SESSION_ITEMS,
    greedy_plans,
    held_plans,
    session_flip_rate,
)

PROG = "python -m bem_fleet.studies.router.plan_ablations"
Report = dict[str, Any]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutcomePair:
    """Outcomes of one training seed.

    Attributes:
        train: Outcomes of the training items.
        dev: Outcomes of the development items.
    """

    train: PlanOutcomes
    dev: PlanOutcomes


@dataclass(frozen=True)
class PolicyVariant:
    """Change of the policy.

    Attributes:
        name: Name in the report.
        horizon: Most steps of a plan.
        trpo: Whether TRPO follows cloning.
        miss_cost: Weight of cache misses in the reward.
        scoped: Whether steps may see less than the passages; if not, all of them see them.
        hysteresis: Whether sessions keep their plans.
    """

    name: str
    horizon: int = 3
    trpo: bool = True
    miss_cost: float = 0.02
    scoped: bool = True
    hysteresis: bool = True


FULL = PolicyVariant("full")
VARIANTS = (
    FULL,
    PolicyVariant("horizon 1", horizon=1),
    PolicyVariant("horizon 2", horizon=2),
    PolicyVariant("no hysteresis", hysteresis=False),
    PolicyVariant("cloning only", trpo=False),
    PolicyVariant("no cache term", miss_cost=0.0),
    PolicyVariant("scopes off", scoped=False),
)


@dataclass(frozen=True, eq=False)
class VariantScores:
    """Scores of a variant on N development items.

    Attributes:
        exact: ``[seeds, N]`` exact match.
        overlap: ``[seeds, N]`` F1.
        plan_length: Mean number of steps.
        missed_share: Mean share of prompt tokens outside the prefix cache.
        flip_rate: Mean flip rate in sessions of ten items.
        kl: Largest divergence of an update, nats.
    """

    exact: Scores
    overlap: Scores
    plan_length: float
    missed_share: float
    flip_rate: float
    kl: float


def measure_variant(
    variant: PolicyVariant, pairs: Sequence[OutcomePair], settings: PolicyTraining
) -> VariantScores:
    """Train the policy of each seed and measure its plans on development items.

    Args:
        variant: Change of the policy.
        pairs: Outcomes of each training seed.
        settings: Settings of cloning and TRPO; the seed is the place of the pair.

    Raises:
        EvaluationError: The scopes cannot be switched off in these outcomes.
    """
    rows = [_measure_seed(variant, pair, settings, seed) for seed, pair in enumerate(pairs)]
    exact, overlap, lengths, missed, flips, kl = zip(*rows, strict=True)
    return VariantScores(
        torch.stack(exact).double().numpy(),
        torch.stack(overlap).double().numpy(),
        float(np.mean(lengths)),
        float(np.mean(missed)),
        float(np.mean(flips)),
        max(kl),
    )


def _measure_seed(
    variant: PolicyVariant, pair: OutcomePair, settings: PolicyTraining, seed: int
) -> tuple[Tensor, Tensor, float, float, float, float]:
    """Return exact match and F1 of each item, length, missed share, flip rate and divergence."""
    train, dev = (_restricted(one, variant) for one in (pair.train, pair.dev))
    projection = fit_projection(train.states, COMPONENTS)
    table, held_out = (one.table(projection, miss_cost=variant.miss_cost) for one in (train, dev))
    trained = train_policy(
        table, replace(settings, seed=seed, updates=settings.updates if variant.trpo else 0)
    )
    plans = greedy_plans(trained, held_out)
    if variant.hysteresis:
        plans = held_plans(trained, held_out, plans)
    rows = torch.arange(len(plans))
    lengths = torch.tensor([float(len(plan)) for plan in table.tree.plans])
    return (
        dev.exact[rows, plans],
        dev.overlap[rows, plans],
        float(lengths[plans].mean()),
        float(dev.misses[rows, plans].mean()),
        session_flip_rate(plans),
        max((update.kl for update in trained.updates), default=0.0),
    )


def _restricted(outcomes: PlanOutcomes, variant: PolicyVariant) -> PlanOutcomes:
    """Return the outcomes of the plans that a variant may choose."""
    actions = [parse_action(one) for one in outcomes.actions]
    if variant.scoped:
        kept = [action for action in actions if action not in UNSCOPED_ACTIONS]
    elif not set(UNSCOPED_ACTIONS) <= set(actions):
        raise EvaluationError(
            "outcomes: no last step sees the passages, so scopes cannot be switched off; compute "
            "them with --unscoped"
        )
    else:
        kept = [action for action in actions if action.scope != "values"]
    return outcomes.restricted(kept, variant.horizon)


def ablation_report(
    pairs: Sequence[OutcomePair],
    others: dict[str, list[OutcomePair]],
    settings: PolicyTraining,
    *,
    command: str,
    resamples: int = 10_000,
) -> Report:
    """Return the figures of every variant and its difference from the full router.

    Args:
        pairs: Outcomes of each training seed.
        others: Outcomes of each training seed with other adapters, by the name of the variant.
        settings: Settings of cloning and TRPO.
        command: Command line, for the report.
        resamples: Number of bootstrap resamples.

    Raises:
        EvaluationError: The tables have other items or numbers of seeds, or lack plans.
    """
    _check_tables(pairs, others)
    dev = pairs[0].dev
    scores = {one.name: measure_variant(one, pairs, settings) for one in VARIANTS}
    scores |= {name: measure_variant(FULL, own, settings) for name, own in others.items()}
    full = scores[FULL.name]
    return {
        "id": "router_ablations",
        "command": command,
        "seeds": len(pairs),
        "items": len(dev.items),
        "subjects": len(set(dev.clusters)),
        "tables": [[pair.train.digest, pair.dev.digest] for pair in pairs],
        "variants": [
            {
                "name": name,
                "exact_match": float(one.exact.mean()),
                "f1": float(one.overlap.mean()),
                "plan_length": one.plan_length,
                "missed_share": one.missed_share,
                "flip_rate": one.flip_rate,
                "largest_kl": one.kl,
                "difference": asdict(
                    metric_difference(one.exact, full.exact, resamples, 0, clusters=dev.clusters)
                ),
            }
            for name, one in scores.items()
        ],
    }


def _check_tables(pairs: Sequence[OutcomePair], others: dict[str, list[OutcomePair]]) -> None:
    if repeated := sorted(set(others) & {one.name for one in VARIANTS}):
        raise EvaluationError(f"variant: {repeated[0]!r} is a variant of the policy; rename it")
    for name, own in {FULL.name: pairs, **others}.items():
        if len(own) != len(pairs):
            raise EvaluationError(
                f"variant {name!r}: {len(own)} training seeds, but the full router has "
                f"{len(pairs)}; give a table of each seed"
            )
        if any(pair.dev.items != pairs[0].dev.items for pair in own):
            raise EvaluationError(
                f"variant {name!r}: its development items are others than those of the first "
                "table; compute the outcomes on the same items"
            )


def ablation_markdown(report: Report) -> str:
    """Return an ablation report as Markdown."""
    lines = [
        "# Ablations of the router",
        "",
        (
            f"{report['items']} development items of {report['subjects']} subjects, "
            f"{report['seeds']} training seeds; made by `{report['command']}`. Plans have "
            f"hysteresis in sessions of {SESSION_ITEMS} items, in the order of the table, unless "
            "the variant says otherwise. With scopes off, formalize and general see the passages, "
            "which formalize was not trained for."
        ),
        "",
        "| variant | exact match | difference | 95 % CI | F1 | steps | missed | flips |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["variants"]:
        change = row["difference"]
        interval = (
            "none"
            if change["ci_low"] is None
            else f"{change['ci_low']:+.3f} to {change['ci_high']:+.3f}"
        )
        lines.append(
            f"| {row['name']} | {row['exact_match']:.3f} | {change['estimate']:+.3f} | {interval} "
            f"| {row['f1']:.3f} | {row['plan_length']:.2f} | {row['missed_share']:.3f} "
            f"| {row['flip_rate']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run all variants and write ``<report>.json`` and ``<report>.md``."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    for option in ("--train", "--dev"):
        parser.add_argument(
            option,
            type=Path,
            nargs="+",
            required=True,
            help=f"outcomes of {option[2:]} of each training seed",
        )
    parser.add_argument(
        "--variant",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "TRAIN", "DEV"),
        help="outcomes of other adapters, such as rank-1; once for each training seed",
    )
    parser.add_argument("--clone-steps", type=int, default=300)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--report", type=Path, required=True, help="path without suffix")
    parsed = parser.parse_args(arguments)
    if len(parsed.train) != len(parsed.dev):
        parser.error("--dev: give one table for each of --train, in the same order")
    others: dict[str, list[OutcomePair]] = {}
    for name, train, dev in parsed.variant:
        others.setdefault(name, []).append(_read_pair(Path(train), Path(dev)))
    report = ablation_report(
        [_read_pair(*paths) for paths in zip(parsed.train, parsed.dev, strict=True)],
        others,
        PolicyTraining(clone_steps=parsed.clone_steps, updates=parsed.updates),
        command=shlex.join([*PROG.split(), *sys.argv[1:]]),
    )
    parsed.report.parent.mkdir(parents=True, exist_ok=True)
    json_file, page = (parsed.report.with_suffix(suffix) for suffix in (".json", ".md"))
    json_file.write_text(render_json(report), encoding="utf-8")
    page.write_text(ablation_markdown(report), encoding="utf-8")
    sys.stdout.write(f"{json_file}\n{page}\n")


def _read_pair(train: Path, dev: Path) -> OutcomePair:
    return OutcomePair(read_outcomes(train), read_outcomes(dev))


if __name__ == "__main__":
    main()
