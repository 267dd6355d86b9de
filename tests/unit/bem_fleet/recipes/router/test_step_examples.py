"""Tests of the training examples of plan tasks and monoliths."""

from pathlib import Path

import pytest
import torch
from bem.testing import tiny_backbone
from bem_fleet.data.record_facts import generate_record_questions, gold_steps
from bem_fleet.recipes.router.step_examples import (
    MONOLITHS,
    PLAN_TASKS,
    encode_examples,
    loss_tokens,
    reply_of,
    shared_tokens,
    step_examples,
)

RECORDS = generate_record_questions("train", 0, 4)


def test_each_side_learns_from_the_same_items() -> None:
    """One example an item, for every task and monolith."""
    for task in (*PLAN_TASKS, *MONOLITHS):
        assert len(step_examples(RECORDS, task)) == len(RECORDS)


def test_tasks_learn_their_step_alone() -> None:
    """Retrieve sees the passages, formalize a value and a format, and targets are gold."""
    values, results, reply = gold_steps(RECORDS[0])
    retrieve, reason, formalize = (
        step_examples(RECORDS, task)[0] for task in ("retrieve", "reason", "formalize")
    )

    assert (retrieve.target, reason.target, formalize.target) == (values, results, reply)
    assert RECORDS[0].passage in retrieve.prompt.messages[-1]["content"]
    assert RECORDS[0].passage not in reason.prompt.messages[-1]["content"]
    assert formalize.prompt.messages[-1]["content"].startswith("Value: ")


def test_a_chain_ends_with_its_reply() -> None:
    """The reply is read from the last line; other tasks reply with all they write."""
    chain = step_examples(RECORDS, "monolith-chain")[0]

    assert reply_of("monolith-chain", chain.target) == RECORDS[0].answers[0]
    assert reply_of("monolith-direct", " a\nb ") == "a\nb"
    assert not chain.activated


def test_adapters_of_tasks_start_behind_the_passages(tmp_path: Path) -> None:
    """A monolith's adapter starts at token 0; loss tokens are those of the target and its end."""
    backbone = tiny_backbone(context_tokens=4096)
    retrieve, direct = (
        encode_examples(
            backbone,
            step_examples(RECORDS, task),
            first_layer=2,
            feature_layer=0,
            folder=tmp_path,
        )
        for task in ("retrieve", "monolith-direct")
    )

    for one, record in zip(retrieve, RECORDS, strict=True):
        assert one.prefix is not None
        assert one.prefix.shape[1] > len(record.passage)
    assert {one.prefix for one in direct} == {None}
    assert {one.start for one in (*retrieve, *direct)} == {0}
    targets = [gold_steps(record)[0] for record in RECORDS]
    assert loss_tokens(retrieve) == sum(len(target.encode()) + 1 for target in targets)
    assert torch.is_tensor(retrieve[0].hidden)


def test_common_beginnings_are_counted() -> None:
    """Up to the first difference or the end of the prefix."""
    assert shared_tokens([1, 2, 3], [1, 2, 9]) == 2
    assert shared_tokens([1, 2, 3], [1, 2]) == 2


def test_unknown_tasks_are_refused() -> None:
    """The error lists the tasks."""
    with pytest.raises(ValueError, match="retrieve"):
        step_examples(RECORDS, "dance")
