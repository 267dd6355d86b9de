"""Perplexity."""

import math

import pytest
from bem.errors import InvalidScoresError
from bem_fleet.scores.perplexity import corpus_perplexity, mean_nll, perplexity


def test_uniform_guessing_has_the_perplexity_of_its_choices() -> None:
    """Probability 1/k for every token gives k, whatever the length."""
    for length in (1, 7):
        assert perplexity([math.log(1 / 50)] * length) == pytest.approx(50)
    assert mean_nll([-1.0, -3.0]) == 2.0


def test_corpus_weighs_tokens_not_items() -> None:
    """A long item counts for more; one impossible token makes it infinite."""
    assert corpus_perplexity([[-1.0] * 3, [-5.0]]) == pytest.approx(math.exp(2))
    assert perplexity([-math.inf, -1.0]) == math.inf


@pytest.mark.parametrize("values", [[], [0.1], [math.nan]])
def test_what_is_no_log_probability_is_refused(values: list[float]) -> None:
    """Nothing, a positive value and NaN are errors."""
    with pytest.raises(InvalidScoresError):
        perplexity(values)
