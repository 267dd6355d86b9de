"""Procedural questions: typed, exact, and never in two splits."""

import json
from collections.abc import Iterator, Mapping

import pytest
from bem.errors import DataFormatError
from bem_fleet.data.compositions import (
    SPLIT_SEEDS,
    chain_splits,
    composition_templates,
    generate_questions,
)
from bem_fleet.data.facts import load_facts
from bem_fleet.data.held_out import inspection
from bem_fleet.data.operations import OPERATIONS, REPLY_FORMATS
from bem_fleet.data.records import Record
from bem_fleet.data.splits import assign_split
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_digests import shared_texts

SPLITS = sorted(SPLIT_SEEDS)


@given(st.tuples(*(st.sampled_from(SPLIT_SEEDS[split]) for split in SPLITS)))
@settings(max_examples=25, deadline=None)
def test_held_out_never_appears_in_training(seeds: tuple[int, ...]) -> None:
    """Whatever the seeds, no chain in any format, no passage and no question is in two splits."""
    with inspection():
        drawn = {
            split: list(generate_questions(split, seed, 40))
            for split, seed in zip(SPLITS, seeds, strict=True)
        }
    for left in SPLITS:
        for right in (split for split in SPLITS if split > left):
            for what in ("template", "chain", "passage", "key"):
                shared = shared_texts(_values(drawn[left], what), _values(drawn[right], what))
                assert not shared


def _values(records: list[Record], what: str) -> set[str]:
    if what == "template":
        return {str(record.labels["template"]) for record in records}
    if what == "chain":
        return {str(record.labels["template"]).rpartition(">")[0] for record in records}
    if what == "key":
        return {record.key for record in records}
    return {part for record in records for part in record.passage.split("\n\n")}


def test_training_knows_every_part_of_a_held_out_composition() -> None:
    """Only the composition is new: each operation, start and format is in a training template."""
    found = composition_templates()
    train = found["train"]

    assert {op.name for t in train for op in t.operations} == set(OPERATIONS)
    assert {t.reply_format for t in train} == set(REPLY_FORMATS)
    assert {t.input_type for t in train} == {t.input_type for t in found["held_out"]}
    names = [t.name for members in found.values() for t in members]
    assert len(names) == len(set(names)) == 312


@given(st.lists(st.text("abcdef", min_size=1, max_size=8), min_size=4, max_size=9, unique=True))
def test_every_input_type_is_held_out(names: list[str]) -> None:
    """Whatever the draw of its chains, one is held out, and training knows its operations."""
    splits = chain_splits({name: tuple(OPERATIONS.values())[:1] for name in names})

    assert set(splits) == set(names)
    assert "held_out" in splits.values()


def test_sole_chain_of_an_operation_stays_in_training() -> None:
    """A chain is moved to the held-out side only if training keeps each of its operations."""
    first, second, third = tuple(OPERATIONS.values())[:3]
    chains = {"a": (first,), "b": (second,), "c": (first,), "d": (third,)}
    for names in _undrawn_names(chains):
        drawn = dict(zip(names, chains.values(), strict=True))
        held = {chain for chain, split in chain_splits(drawn).items() if split == "held_out"}

        assert len(held) == 1
        assert {drawn[chain] for chain in held} == {(first,)}


def _undrawn_names(chains: Mapping[str, object]) -> Iterator[list[str]]:
    """Yield names of chains that are all drawn for training."""
    for number in range(60):
        names = [f"{name}{number}" for name in chains]
        if {assign_split(name) for name in names} == {"train"}:
            yield names


def test_compositions_fit_by_type() -> None:
    """What a step gives is what the next takes, from the start on."""
    for members in composition_templates().values():
        for template in members:
            given_type = template.input_type
            for operation in template.operations:
                assert operation.input_type == given_type
                given_type = operation.output_type


def test_same_arguments_same_questions() -> None:
    """A seed is a data set: again the same, and no other seed's."""
    first = list(generate_questions("dev", 1001, 20))

    assert list(generate_questions("dev", 1001, 20)) == first
    assert list(generate_questions("dev", 1002, 20)) != first
    assert list(generate_questions("dev", 1001, 30))[:20] == first


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("numbers>difference>is_even>json", (9, 4), '{"answer": "no"}'),
        ("texts>longer>upper>tag", ("a b", "cde f"), "<answer>CDE F</answer>"),
        ("text>reverse_words>first_word>line", "in the Andes", "Answer: Andes"),
        ("flags>agree>opposite>json", (True, False), '{"answer": "yes"}'),
        ("number>double>plus_ten>line", 7, "Answer: 24"),
        ("texts>join>upper>json", ('say "x"', "y"), '{"answer": "SAY \\"X\\" AND Y"}'),
    ],
)
def test_answers_are_exact(name: str, value: object, wanted: str) -> None:
    """The reply is what the steps give, in the form that was asked for."""
    every = {t.name: t for members in composition_templates().values() for t in members}
    template = every[name]
    reply = template.reply(template.answer(value))  # type: ignore[arg-type]

    assert reply == wanted
    if template.reply_format == "json":
        assert json.loads(reply)


def test_facts_are_real_and_typed() -> None:
    """Texts stand in their passages, numbers are digits, flags are yes or no, in every split."""
    for kinds in load_facts().values():
        assert set(kinds) == {"flag", "number", "text"}
        assert all(fact.answer.lower() in fact.passage.lower() for fact in kinds["text"])
        assert all(fact.answer.isdigit() for fact in kinds["number"])
        assert {fact.answer for fact in kinds["flag"]} == {"yes", "no"}


def test_seed_of_another_split_is_refused() -> None:
    """Training cannot draw what an evaluation draws, even by mistake."""
    with pytest.raises(DataFormatError, match="0 to 999"):
        next(generate_questions("train", SPLIT_SEEDS["held_out"].start, 1))
    with pytest.raises(DataFormatError, match="held_out"):
        next(generate_questions("test", 0, 1))
