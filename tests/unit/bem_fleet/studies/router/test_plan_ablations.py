"""Tests of the router's ablations, on made-up outcomes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.errors import EvaluationError
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.plan_tree import PlanTree
from bem.policy.policy_training import PolicyTraining
from bem_fleet.recipes.router.plan_outcomes import UNSCOPED_ACTIONS, PlanOutcomes, save_outcomes
from bem_fleet.studies.router import plan_ablations
from bem_fleet.studies.router.plan_ablations import (
    FULL,
    VARIANTS,
    OutcomePair,
    PolicyVariant,
    ablation_report,
    measure_variant,
)

TREE = PlanTree((*DEFAULT_ACTIONS, *UNSCOPED_ACTIONS))
SETTINGS = PolicyTraining(clone_steps=60, updates=2, episodes=64, hidden=16)


def made_up(seed: int, items: int = 60) -> PlanOutcomes:
    """Return outcomes in which only a scoped chain of three steps is right, on nine of ten."""
    generator = torch.Generator().manual_seed(seed)
    right = [
        len(plan) == 3 and all(action.scope == "values" for action in plan[1:])
        for plan in TREE.plans
    ]
    exact = torch.tensor(right).float().repeat(items, 1)
    exact[torch.rand(items, generator=generator) < 0.1] = 0
    return PlanOutcomes(
        actions=tuple(str(action) for action in TREE.actions),
        horizon=3,
        items=tuple(str(item) for item in range(items)),
        clusters=tuple(str(item // 2) for item in range(items)),
        parts=("seen",) * items,
        states=torch.randn(items, 6, generator=generator),
        evidence=torch.zeros(items, 8),
        exact=exact,
        overlap=exact,
        misses=torch.full_like(exact, 0.5),
    )


def pair(seed: int) -> OutcomePair:
    """Return outcomes of one training seed."""
    return OutcomePair(made_up(seed), made_up(100 + seed))


def test_what_the_plan_needs_is_missed() -> None:
    """Shorter plans and plans without scopes lose everything, and the interval says so."""
    report = ablation_report(
        [pair(0), pair(1)], {"rank-1": [pair(2), pair(3)]}, SETTINGS, command="x", resamples=200
    )

    rows = {row["name"]: row for row in report["variants"]}
    assert list(rows) == [*(one.name for one in VARIANTS), "rank-1"]
    assert rows["full"]["exact_match"] > 0.8
    assert rows["full"]["difference"]["estimate"] == 0
    for name in ("horizon 1", "horizon 2", "scopes off"):
        assert rows[name]["exact_match"] == 0
        assert rows[name]["difference"]["ci_high"] < -0.5
    assert rows["horizon 1"]["plan_length"] == 1
    assert rows["cloning only"]["largest_kl"] == 0 < rows["full"]["largest_kl"]
    assert "seeds x clusters of items" in rows["rank-1"]["difference"]["method"]


def test_hysteresis_and_the_cache_term_act() -> None:
    """Sessions flip less with hysteresis; without the cache term misses do not count."""
    random = replace(made_up(5), exact=(torch.rand(60, len(TREE.plans)) > 0.5).float())
    own = [OutcomePair(random, random)]
    free = measure_variant(PolicyVariant("x", hysteresis=False), own, SETTINGS)
    misses = torch.zeros_like(random.misses)
    misses[:, [len(plan) for plan in TREE.plans].index(1)] = 1
    same = replace(random, exact=torch.ones_like(random.exact), misses=misses)
    costly, unpriced = (
        measure_variant(PolicyVariant("x", miss_cost=cost), [OutcomePair(same, same)], SETTINGS)
        for cost in (1.0, 0.0)
    )

    assert measure_variant(FULL, own, SETTINGS).flip_rate < free.flip_rate
    assert (costly.missed_share, unpriced.missed_share) == (0, 1)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"full": [pair(0)]}, "rename it"),
        ({"rank-1": [pair(0), pair(1)]}, "2 training seeds"),
        ({"rank-1": [OutcomePair(made_up(0), made_up(0, 50))]}, "development items are others"),
    ],
)
def test_tables_must_fit(others: dict[str, list[OutcomePair]], message: str) -> None:
    """Other items or seeds would be another comparison."""
    with pytest.raises(EvaluationError, match=message):
        ablation_report([pair(0)], others, SETTINGS, command="x")


def test_scopes_need_their_plans() -> None:
    """A table of the default actions has no plan whose every step sees the passages."""
    scoped = made_up(0).restricted(DEFAULT_ACTIONS, 3)

    with pytest.raises(EvaluationError, match="--unscoped"):
        measure_variant(PolicyVariant("x", scoped=False), [OutcomePair(scoped, scoped)], SETTINGS)


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    """One table a seed; other adapters by name."""
    for name, seed in (("train", 0), ("dev", 1)):
        save_outcomes(tmp_path / name, made_up(seed))
    train, dev = str(tmp_path / "train"), str(tmp_path / "dev")

    plan_ablations.main([
        *("--train", train, "--dev", dev, "--variant", "o_proj", train, dev),
        *("--clone-steps", "3", "--updates", "1", "--report", str(tmp_path / "report")),
    ])  # fmt: skip

    report = json.loads((tmp_path / "report.json").read_text())
    page = (tmp_path / "report.md").read_text()
    assert all(f"| {row['name']} | " in page for row in report["variants"])
    assert report["variants"][-1]["name"] == "o_proj"
