"""Scores as SQuAD defines them."""

import pytest
from bem.training.scores import exact_match, f1, lenient_answer, normalise, strict_answer


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


def test_normalisation_keeps_words_apart() -> None:
    """Articles vanish only as whole words."""
    assert normalise("A  theatre, an answer, the end.") == "theatre answer end"


def test_only_the_exact_json_is_valid() -> None:
    """One key of type string, nothing around it; the lenient reading takes what it finds."""
    assert strict_answer('{"answer": "x"}') == "x"
    for reply in ('{"answer": 1}', '{"answer": "x", "b": 1}', 'Sure: {"answer": "x"}', "x", "[]"):
        assert strict_answer(reply) is None
    assert lenient_answer('Sure: {"answer": "x"}') == "x"
    assert lenient_answer("x") == "x"
