"""Tests of outcome computation, on the tiny base model."""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.engine.offline import stream
from bem.engine.plan_run import PlanRun, StepOutput
from bem.errors import DataFormatError
from bem.policy.actions import MacroAction
from bem.policy.features import fit_projection
from bem.policy.plan_tree import PlanTree
from bem.prompt_encoding import PromptEncoder
from bem.testing import tiny_backbone
from bem_fleet.data.record_facts import generate_record_questions
from bem_fleet.data.records import Record
from bem_fleet.recipes.router.plan_outcomes import (
    REPLY_TOKENS,
    PlanOutcomes,
    compute_outcomes,
    join_outcomes,
    read_outcomes,
    save_outcomes,
)
from bem_fleet.recipes.router.step_examples import plan_input

ACTIONS = (
    MacroAction("retrieve"),
    MacroAction("general"),
    MacroAction("general", "values", "prompt"),
)
TREE = PlanTree(ACTIONS)


@cache
def records() -> list[Record]:
    """Return two items; reading the passages takes a second."""
    return generate_record_questions("train", 0, 2)


@pytest.fixture(scope="module")
def engine() -> Iterator[LLMEngine]:
    """A started engine of the tiny model."""
    engine = LLMEngine(tiny_backbone(context_tokens=4096), max_sequences=4, context_tokens=4096)
    engine.start()
    yield engine
    engine.close(drain=False)


@pytest.fixture(scope="module")
def outcomes(engine: LLMEngine) -> PlanOutcomes:
    """Outcomes of two plans on two items."""
    return compute_outcomes(engine, records(), TREE, {})


def reply_alone(engine: LLMEngine, plan: int) -> str:
    """Return the reply of one plan that is run by itself on the first item."""
    encoder = PromptEncoder(engine.backbone.tokenizer)
    last = GenerationRequest((0,), Sampling(temperature=0), max_tokens=REPLY_TOKENS)
    run = PlanRun(TREE.plans[plan], plan_input(records()[0]), encoder, {}, last=last)
    while request := run.next_request():
        (done,) = [one for _, one in stream(engine, [request])]
        run.finish_step(StepOutput(done.text))
    return run.reply


@pytest.mark.parametrize("plan", [0, 1])
def test_a_score_is_that_of_the_plan_alone(engine: LLMEngine, plan: int) -> None:
    """Sharing steps between plans changes no outcome: the reply itself scores 1."""
    reply = reply_alone(engine, plan)
    record = replace(records()[0], answers=(reply.strip(),))

    found = compute_outcomes(engine, [record], TREE, {})

    assert found.exact[0, plan] == 1
    assert found.overlap[0, plan] == 1


def test_shapes_and_shares_are_those_of_the_tree(outcomes: PlanOutcomes) -> None:
    """One row an item, one column a plan; a direct answer misses what is behind the passages."""
    assert outcomes.exact.shape == outcomes.misses.shape == (2, len(TREE.plans))
    assert outcomes.states.shape == (2, 32)
    assert bool(((outcomes.misses > 0) & (outcomes.misses <= 1)).all())
    assert outcomes.clusters == tuple(record.labels["cluster"] for record in records())
    assert set(outcomes.parts) == {"seen"}


def test_a_table_charges_steps_and_misses(outcomes: PlanOutcomes) -> None:
    """Rewards are exact match less the costs; features are projected states and evidence."""
    projection = fit_projection(outcomes.states, 1)

    table = outcomes.table(projection, step_cost=0.1, miss_cost=0.2)

    steps = torch.tensor([len(plan) for plan in TREE.plans])
    assert torch.allclose(table.rewards, outcomes.exact - 0.1 * steps - 0.2 * outcomes.misses)
    assert table.features.shape == (2, projection.width)


def test_outcomes_are_read_back(outcomes: PlanOutcomes, tmp_path: Path) -> None:
    """Texts and tensors survive, and the digest is the same."""
    save_outcomes(tmp_path / "o" / "train", outcomes)

    found = read_outcomes(tmp_path / "o" / "train")

    assert found.digest == outcomes.digest
    assert found.tree().plans == TREE.plans
    assert torch.equal(found.states, outcomes.states)
    with pytest.raises(DataFormatError, match="no outcomes"):
        read_outcomes(tmp_path / "missing")


def test_shards_are_joined_to_the_whole(outcomes: PlanOutcomes) -> None:
    """Items follow in the order of the parts with their own rows."""

    def shard(place: int) -> PlanOutcomes:
        """Return the outcomes of one item."""
        rows = {
            field.name: getattr(outcomes, field.name)[place : place + 1]
            for field in fields(outcomes)
            if field.name not in {"actions", "horizon"}
        }
        return replace(outcomes, **rows)

    found = join_outcomes([shard(1), shard(0)])

    assert found.items == outcomes.items[::-1]
    assert found.clusters == outcomes.clusters[::-1]
    assert torch.equal(found.exact, outcomes.exact.flip(0))
    assert torch.equal(found.states, outcomes.states.flip(0))
    assert join_outcomes([shard(0), shard(1)]).digest == outcomes.digest
    with pytest.raises(DataFormatError, match="an item is in two parts"):
        join_outcomes([shard(0), shard(0)])
    with pytest.raises(DataFormatError, match="other plans"):
        join_outcomes([shard(0), replace(shard(1), horizon=1)])
