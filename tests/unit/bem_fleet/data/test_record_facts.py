"""Questions about record facts: exact, typed, and held out in three parts."""

from functools import cache

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.compositions import SPLIT_SEEDS
from bem_fleet.data.held_out import HeldOutClosedError, inspection
from bem_fleet.data.operations import STRICT_FORMATS
from bem_fleet.data.record_facts import (
    ITEMS,
    PARTS,
    RESULT_SEPARATOR,
    VALUE_SEPARATOR,
    generate_record_questions,
    gold_steps,
    record_templates,
)
from bem_fleet.data.record_tables import load_record_facts
from bem_fleet.data.records import Record

pytestmark = pytest.mark.slow

COUNTS = {"train": 200, "dev": 90, "held_out": 120}


@cache
def questions(split: str) -> list[Record]:
    """Return the first questions of a split, drawn once."""
    with inspection():
        return generate_record_questions(split, SPLIT_SEEDS[split].start, COUNTS[split])


def chain(record: Record) -> str:
    """Return input type and operations of a question."""
    return str(record.labels["template"]).rpartition(">")[0]


def test_gold_steps_lead_to_the_reply() -> None:
    """Values occur in the passage, the last result is the answer, the reply holds it."""
    for record in questions("train"):
        values, results, reply = gold_steps(record)
        answer = results.split(RESULT_SEPARATOR)[-1]
        assert all(value in record.passage for value in values.split(VALUE_SEPARATOR))
        assert answer == record.labels["answer"]
        template = STRICT_FORMATS[str(record.labels["format"])][1]
        assert reply == template.format(answer)


def test_all_formats_and_both_depths_occur() -> None:
    """Six formats, one and two operations."""
    assert {record.labels["format"] for record in questions("train")} == set(STRICT_FORMATS)
    assert {record.category.count("+") for record in questions("train")} == {0, 1}


@pytest.mark.parametrize("split", ["dev", "held_out"])
def test_parts_hold_out_what_they_say(split: str) -> None:
    """Facts, chains or both are of the later split; the other one is of training."""
    items = questions(split)
    facts = {name: {fact.cluster for fact in found} for name, found in load_record_facts().items()}
    chains = {name: {one.chain for one in found} for name, found in record_templates().items()}

    assert {record.labels["part"] for record in items} == set(PARTS)
    for record in items:
        part = record.labels["part"]
        facts_of = "train" if part == "compositions" else split
        chains_of = "train" if part == "facts" else split
        assert record.labels["cluster"] in facts[facts_of]
        assert chain(record) in chains[chains_of]


def test_training_knows_every_part_of_a_held_out_composition() -> None:
    """Only the composition is new, never an operation or a format."""
    found = record_templates()
    trained = {operation.name for one in found["train"] for operation in one.operations}

    for split in ("dev", "held_out"):
        assert {op.name for one in found[split] for op in one.operations} <= trained
        assert not {one.chain for one in found[split]} & {one.chain for one in found["train"]}


def test_no_question_repeats() -> None:
    """Items are distinct within and across splits."""
    keys = [record.key for split in COUNTS for record in questions(split)]

    assert len(keys) == len(set(keys))
    assert (ITEMS["train"], ITEMS["dev"]) == (2000, 300)
    assert ITEMS["held_out"] >= 1800


def test_long_contexts_have_more_distractors() -> None:
    """The hard slice has at least twice as many sentences."""
    long = generate_record_questions("train", 0, 20, length="long")

    assert max(len(one.passage.splitlines()) for one in questions("train")) <= 10
    assert min(len(one.passage.splitlines()) for one in long) >= 20


def test_the_same_seed_gives_the_same_questions() -> None:
    """A run can be repeated."""
    assert generate_record_questions("train", 0, 10) == questions("train")[:10]
    assert generate_record_questions("train", 1, 10) != questions("train")[:10]


def test_held_out_questions_are_closed() -> None:
    """Only a final evaluation opens them."""
    with pytest.raises(HeldOutClosedError):
        generate_record_questions("held_out", SPLIT_SEEDS["held_out"].start, 1)


def test_seeds_of_another_split_are_refused() -> None:
    """A training run cannot draw the questions of an evaluation."""
    with pytest.raises(DataFormatError, match="seed"):
        generate_record_questions("train", SPLIT_SEEDS["dev"].start, 1)
