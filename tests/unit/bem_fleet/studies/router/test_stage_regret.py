"""Tests of the regret by stage."""

from collections.abc import Mapping

import numpy as np
import pytest
from bem.engine.plan_run import PlanRun, StepOutput
from bem.policy.actions import DEFAULT_ACTIONS, FIXED_PLAN, Plan
from bem.testing import tiny_backbone
from bem_fleet.data.record_facts import generate_record_questions, gold_steps
from bem_fleet.studies.router import stage_regret
from bem_fleet.studies.router.stage_regret import (
    STAGES,
    StageScores,
    regret_markdown,
    regret_report,
    replies_with_gold,
)

DIRECT: Plan = (DEFAULT_ACTIONS[5],)
RECORDS = generate_record_questions("train", 0, 2)


def scores(plan: Plan, *values: float) -> StageScores:
    """Return scores of two equal items: oracle, chosen, retrieved, reasoned."""
    oracle, chosen, retrieved, reasoned = (np.full(2, value) for value in values)
    return StageScores((plan, plan), oracle, chosen, retrieved, reasoned)


def test_stages_divide_what_the_router_lacks() -> None:
    """Retrieval costs a half here, reasoning a quarter, the format the rest."""
    report = regret_report([scores(FIXED_PLAN, 0.5, 0.0, 0.5, 0.75)], ["a", "b"], resamples=100)

    found = {stage: row["estimate"] for stage, row in report["stages"].items()}
    assert found == {
        "plan": 0.5, "retrieve": 0.5, "reason": 0.25, "formalize": 0.25, "general": 0.0,
    }  # fmt: skip
    assert report["plan_length"] == 3


def test_a_direct_answer_has_no_regret_of_other_stages() -> None:
    """Of the stages behind the plan only the one that ran can be at fault."""
    report = regret_report([scores(DIRECT, 1.0, 0.25, 0.25, 0.25)], ["a", "b"], resamples=100)

    found = {stage: row["estimate"] for stage, row in report["stages"].items()}
    assert found["plan"] == found["general"] == 0.75
    assert found["retrieve"] == found["reason"] == found["formalize"] == 0


def test_seeds_and_clusters_are_resampled() -> None:
    """The interval names its method, and the table has a row a stage."""
    random = np.random.default_rng(0)
    seeds = [
        StageScores(
            (FIXED_PLAN,) * 60, *(random.integers(0, 2, 60).astype(float) for _ in range(4))
        )
        for _ in range(3)
    ]
    report = regret_report(seeds, [str(item // 2) for item in range(60)], resamples=200)

    row = report["stages"]["reason"]
    assert "seeds x clusters of items" in row["method"]
    assert row["ci_low"] < row["estimate"] < row["ci_high"]
    assert sum(
        line.startswith(tuple(f"| {one} |" for one in STAGES)) for line in regret_markdown(report)
    ) == len(STAGES)


@pytest.mark.parametrize(("tasks", "steps"), [(("retrieve",), 1), (("retrieve", "reason"), 2)])
def test_gold_outputs_reach_the_next_step(
    monkeypatch: pytest.MonkeyPatch, tasks: tuple[str, ...], steps: int
) -> None:
    """The steps that run read the gold value in place of a generated one."""
    prompts: list[str] = []

    def finish(_engine: object, runs: Mapping[tuple[int, int], PlanRun], _horizon: int) -> None:
        for run in runs.values():
            assert len(run.results) == steps
            while request := run.next_request():
                prompts.append(tokenizer.decode(request.prompt_ids))
                run.finish_step(StepOutput(" 7 "))

    engine = type("Engine", (), {"backbone": tiny_backbone()})()
    tokenizer = engine.backbone.tokenizer
    monkeypatch.setattr(stage_regret, "run_steps", finish)

    replies = replies_with_gold(engine, RECORDS, [FIXED_PLAN] * 2, {}, tasks)

    assert replies == ["7", "7"]
    golds = [gold_steps(record)[steps - 1].rpartition("; ")[2] for record in RECORDS]
    first = prompts[:: 3 - steps]
    assert all(gold in prompt for gold, prompt in zip(golds, first, strict=True))
