"""Perplexity and mean negative log-likelihood from token log-probabilities."""

import math
from collections.abc import Sequence

from bem.errors import InvalidScoresError


def mean_nll(log_likelihoods: Sequence[float]) -> float:
    """Return the mean negative log-likelihood of an item's tokens in nats, at least 0.

    Perplexities of items must not be averaged. The mean negative log-likelihood may be: the
    exponential of its token-weighted mean is the perplexity of the corpus.

    Args:
        log_likelihoods: Natural log-probabilities, [tokens], at most 0.

    Raises:
        InvalidScoresError: There is no token, or a value is above 0 or NaN.
    """
    if len(log_likelihoods) == 0:
        raise InvalidScoresError("log_likelihoods: no token; a perplexity needs at least one")
    for value in log_likelihoods:
        if not value <= 0:
            raise InvalidScoresError(
                f"log_likelihoods: {value} is not a log-probability; it must be at most 0"
            )
    return -math.fsum(log_likelihoods) / len(log_likelihoods)


def perplexity(log_likelihoods: Sequence[float]) -> float:
    """Return the exponential of the mean negative log-likelihood, at least 1 and possibly inf.

    Raises:
        InvalidScoresError: The conditions of ``mean_nll`` are not met.
    """
    loss = mean_nll(log_likelihoods)
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def corpus_perplexity(items: Sequence[Sequence[float]]) -> float:
    """Return the perplexity over all tokens of all items.

    Raises:
        InvalidScoresError: The conditions of ``mean_nll`` are not met.
    """
    return perplexity([value for item in items for value in item])
