"""Exact match and F1 as SQuAD's official script defines them."""

import re
import string
from collections import Counter

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.answer_match import best_over_golds, exact_match, f1, normalise
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "overlap"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("in the year 1066", "1066", 0.0, 0.5),
        ("Denver Broncos", "the Denver Broncos", 1.0, 1.0),
        ("cat", "dog", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "something", 0.0, 0.0),
        ("new york city", "york", 0.0, 0.5),
    ],
)
def test_scores_follow_the_definition(answer: str, gold: str, exact: float, overlap: float) -> None:
    """Case, punctuation and articles do not count; F1 is over words."""
    assert exact_match(answer, gold) == exact
    assert f1(answer, gold) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("answers", "golds", "exact", "overlap"),
    [
        # The card of the `squad` metric in the `evaluate` library: all, none, two of three right.
        (["1976"], [["1976"]], 100.0, 100.0),
        (["1999"], [["1976"]], 0.0, 0.0),
        (
            ["1976", "Beyonce", "climate change"],
            [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]],
            66.66666666666667,
            66.66666666666667,
        ),
        # A published table of a SQuAD 2.0 evaluation, its F1 to three digits.
        (
            ["dreadnought battleships, and ocean liners"],
            [["ocean liners", "ocean liners", "ocean liners"]],
            0.0,
            57.14285714285714,
        ),
        (["Sharia"], [["sharia, an idealized village code", "sharia"]], 100.0, 100.0),
    ],
)
def test_published_examples_come_out_the_same(
    answers: list[str], golds: list[list[str]], exact: float, overlap: float
) -> None:
    """The means that others printed for SQuAD's script are ours, in per cent."""
    for score, wanted in ((exact_match, exact), (f1, overlap)):
        found = [best_over_golds(score, a, g) for a, g in zip(answers, golds, strict=True)]

        assert 100 * sum(found) / len(found) == pytest.approx(wanted)


def by_definition(answer: str, gold: str) -> float:
    """F1 written from the script's description, with loops instead of tables."""
    words = []
    for text in (answer, gold):
        bare = "".join(char for char in text.lower() if char not in set(string.punctuation))
        words.append(re.sub(r"\b(a|an|the)\b", " ", bare).split())
    given_words, wanted = words
    if not given_words or not wanted:
        return float(given_words == wanted)
    left = list(wanted)
    hits = 0
    for word in given_words:
        if word in left:
            left.remove(word)
            hits += 1
    assert hits == sum((Counter(given_words) & Counter(wanted)).values())
    return 2 * hits / (len(given_words) + len(wanted))


WORDS = ["a", "The", "an,", "cat", "dog", "'cat'", "new-york", "1,066", "été", "!", ""]
TEXTS = st.lists(st.sampled_from(WORDS)).map(" ".join)


@given(TEXTS, TEXTS)
def test_scores_equal_a_second_writing_of_the_script(answer: str, gold: str) -> None:
    """F1 is 2 hits / (words + words), symmetric, and 1 exactly when the bags of words agree."""
    assert f1(answer, gold) == pytest.approx(by_definition(answer, gold))
    assert f1(answer, gold) == pytest.approx(f1(gold, answer))
    assert exact_match(answer, gold) <= f1(answer, gold)


def test_best_of_needs_a_gold_answer() -> None:
    """The best of several golds counts; none at all is an error."""
    assert best_over_golds(f1, "york", ["paris", "new york"]) == pytest.approx(2 / 3)
    with pytest.raises(InvalidScoresError, match="at least one"):
        best_over_golds(f1, "york", [])


def test_normalisation_keeps_words_apart() -> None:
    """Articles vanish only as whole words."""
    assert normalise("A  theatre, an answer, the end.") == "theatre answer end"
