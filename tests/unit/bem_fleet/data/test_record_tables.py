"""Record facts: copyable values of packaged tables, split by subject."""

import pytest
from bem_fleet.data.near_duplicates import normalise
from bem_fleet.data.record_tables import (
    MAX_NAME_WORDS,
    SOURCES,
    all_record_facts,
    is_plain,
    load_record_facts,
    record_sources,
)

from tests.support.text_digests import shared_texts, text_digest

FACTS = [fact for facts in all_record_facts().values() for fact in facts]


def test_each_value_can_be_copied_from_its_sentence() -> None:
    """The sentence spells the value, and the question does not."""
    assert len(FACTS) > 3000
    wrong = [
        text_digest(fact.sentence)
        for fact in FACTS
        if f" {fact.value}" not in f" {fact.sentence}"
        or not fact.question.endswith("?")
        or (fact.kind == "text" and fact.value in fact.question.replace(fact.subject, ""))
    ]

    assert not wrong


def test_numbers_are_digits_and_names_are_plain() -> None:
    """Answers are integers, or few words of an ordinary vocabulary."""
    wrong = [
        text_digest(fact.sentence)
        for fact in FACTS
        if not (fact.value.isdigit() if fact.kind == "number" else is_plain(fact.value))
    ]

    assert not wrong


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Port Arthur", True), ("Schererville", False), ("St. Paul", False), ("a b c", False)],
)
def test_plain_names_are_common_words(name: str, plain: bool) -> None:
    """Rare words, abbreviations and long names are no answers."""
    assert is_plain(name) == plain
    assert MAX_NAME_WORDS == 2


def test_a_subject_is_in_one_split() -> None:
    """All facts of a subject are known or unknown together."""
    subjects = {
        split: {normalise(fact.subject) for fact in facts}
        for split, facts in all_record_facts().items()
    }
    trained = shared_texts(subjects["train"], subjects["dev"] | subjects["held_out"])
    calibrated = shared_texts(subjects["dev"], subjects["held_out"])

    assert not trained
    assert not calibrated
    assert len({fact.cluster for fact in all_record_facts()["held_out"]}) > 300


def test_a_question_has_one_answer() -> None:
    """No two facts answer one question differently."""
    answers: dict[str, set[str]] = {}
    for fact in FACTS:
        answers.setdefault(fact.question, set()).add(fact.value)

    assert all(len(values) == 1 for values in answers.values())


def test_loaded_facts_have_both_kinds_in_each_split() -> None:
    """Each split can ask for texts and for numbers."""
    for facts in load_record_facts().values():
        assert {fact.kind for fact in facts} == {"text", "number"}


def test_sources_state_their_versions() -> None:
    """The tables are those of installed packages."""
    assert set(record_sources()) == set(SOURCES)
