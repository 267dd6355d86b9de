"""Regret of the router by stage: what the plan and each step of it cost in exact match.

``plan`` is the exact match of each item's best plan less that of the chosen plan. The stages
``retrieve``, ``reason``, ``formalize`` and ``general`` divide what the chosen plan lacks: the gold
output replaces that of ``retrieve``, then that of ``reason`` too, and each stage's regret is what
that adds. The last step, ``formalize`` or ``general``, has what remains to 1. So the four sum to 1
less the exact match of the router, and a stage that a plan leaves out has no regret on that item.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.engine.plan_run import PlanRun, StepOutput
from bem.policy.actions import CONTRACTS, HORIZON, Plan
from bem.prompt_encoding import PromptEncoder
from numpy.typing import NDArray

from bem_fleet.data.record_facts import gold_steps
from bem_fleet.data.records import Record
from bem_fleet.evaluation.score_comparison import metric_difference
from bem_fleet.recipes.router.plan_outcomes import REPLY_TOKENS, compute_outcomes, run_steps
from bem_fleet.recipes.router.step_examples import PLAN_TASKS, plan_input
from bem_fleet.studies.router.plan_system import by_policy
from bem_fleet.studies.router.seed_runs import SeedRun

ADAPTERS = {task: task for task in PLAN_TASKS}
"""Adapter of each task in the engines of the study."""
STAGES = ("plan", *CONTRACTS)
Scores = NDArray[np.float64]
Report = dict[str, Any]


@dataclass(frozen=True, eq=False)
class StageScores:
    """Exact match of one seed's router on N items, with ever more gold outputs.

    Attributes:
        plans: Plan of each item.
        oracle: ``[N]`` best plan of each item.
        chosen: ``[N]`` chosen plan.
        retrieved: ``[N]`` chosen plan with the gold output of ``retrieve``.
        reasoned: ``[N]`` chosen plan with the gold outputs of ``retrieve`` and ``reason``.
    """

    plans: tuple[Plan, ...]
    oracle: Scores
    chosen: Scores
    retrieved: Scores
    reasoned: Scores

    def regret(self, stage: str) -> tuple[Scores, Scores]:
        """Return the scores with and without the stage's errors, both ``[N]``."""
        if stage == "plan":
            return self.oracle, self.chosen
        if stage == "retrieve":
            return self.retrieved, self.chosen
        if stage == "reason":
            return self.reasoned, self.retrieved
        ends = np.array([plan[-1].adapter == stage for plan in self.plans])
        return np.where(ends, 1.0, self.reasoned), self.reasoned


def stage_scores(run: SeedRun, records: Sequence[Record]) -> StageScores:
    """Run all plans of the policy, and the chosen ones with gold outputs, greedily.

    Args:
        run: Seed with its started engine.
        records: Record questions.
    """
    tree = run.policy.tree
    choose, _ = by_policy(run.policy)
    plans = choose(run.engine, [plan_input(record) for record in records])
    exact = compute_outcomes(run.engine, records, tree, ADAPTERS).exact
    places = torch.tensor([tree.plans.index(plan) for plan in plans])

    def fed(*tasks: str) -> Scores:
        replies = replies_with_gold(run.engine, records, plans, ADAPTERS, tasks)
        right = [reply == record.answers[0] for reply, record in zip(replies, records, strict=True)]
        return np.array(right, dtype=np.float64)

    return StageScores(
        tuple(plans),
        oracle=exact.max(1).values.double().numpy(),
        chosen=exact[torch.arange(len(plans)), places].double().numpy(),
        retrieved=fed("retrieve"),
        reasoned=fed("retrieve", "reason"),
    )


def replies_with_gold(
    engine: LLMEngine,
    records: Sequence[Record],
    plans: Sequence[Plan],
    adapters: Mapping[str, str],
    tasks: Collection[str],
) -> list[str]:
    """Return the reply of each item's plan when steps of ``tasks`` have their gold output.

    Args:
        engine: Started engine with the adapters.
        records: Record questions.
        plans: Plan of each record.
        adapters: Adapter of each task.
        tasks: ``retrieve``, ``reason`` or both; they are the first steps of every plan.
    """
    encoder = PromptEncoder(engine.backbone.tokenizer)
    last = GenerationRequest((0,), Sampling(temperature=0), max_tokens=REPLY_TOKENS)
    runs: dict[tuple[int, int], PlanRun] = {}
    for item, (record, plan) in enumerate(zip(records, plans, strict=True)):
        run = PlanRun(plan, plan_input(record), encoder, adapters, last=last)
        golds = dict(zip(CONTRACTS, gold_steps(record), strict=False))
        for action in plan:
            if action.adapter in tasks:
                run.next_request()
                run.finish_step(StepOutput(golds[action.adapter]))
        runs[item, 0] = run
    run_steps(engine, runs, HORIZON)
    return [run.reply.strip() for run in runs.values()]


def regret_report(
    scores: Sequence[StageScores], clusters: Sequence[str], *, resamples: int = 10_000
) -> Report:
    """Return the regret of each stage with its interval over seeds x clusters.

    Args:
        scores: Scores of each seed on the same items.
        clusters: Cluster of each item.
        resamples: Number of bootstrap resamples.
    """
    return {
        "exact_match": float(np.mean([one.chosen for one in scores])),
        "oracle_exact_match": float(np.mean([one.oracle for one in scores])),
        "plan_length": float(np.mean([len(plan) for one in scores for plan in one.plans])),
        "stages": {
            stage: asdict(
                metric_difference(
                    np.stack([one.regret(stage)[0] for one in scores]),
                    np.stack([one.regret(stage)[1] for one in scores]),
                    resamples,
                    0,
                    clusters=clusters,
                )
            )
            for stage in STAGES
        },
    }


def regret_markdown(regret: Report) -> list[str]:
    """Return the Markdown lines of a report's regret."""
    lines = [
        "",
        "## Regret by stage",
        "",
        (
            f"The chosen plans have exact match {regret['exact_match']:.3f} and "
            f"{regret['plan_length']:.2f} steps; each item's best plan has "
            f"{regret['oracle_exact_match']:.3f}. The stages behind `plan` sum to what the router "
            "lacks of 1: each is the gain from its gold output behind those before it."
        ),
        "",
        "| stage | regret | 95 % CI |",
        "| --- | --- | --- |",
    ]
    for stage, row in regret["stages"].items():
        missing = row["ci_low"] is None
        interval = "none" if missing else f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}"
        lines.append(f"| {stage} | {row['estimate']:+.3f} | {interval} |")
    return lines
