"""Perplexity out of the log-likelihoods of an item's tokens."""

import math
from collections.abc import Sequence

from bem.errors import InvalidScoresError


def mean_nll(log_likelihoods: Sequence[float]) -> float:
    """Return the mean negative log-likelihood of an item's tokens in nats, at least 0.

    Perplexities of items must not be averaged; this may be: the exponential of its
    token-weighted mean is the corpus' perplexity.

    Args:
        log_likelihoods: [tokens], natural logarithms, none above 0.

    Raises:
        InvalidScoresError: No token, or a value that is no log-probability.
    """
    if len(log_likelihoods) == 0:
        raise InvalidScoresError("no token; a perplexity needs at least one")
    for value in log_likelihoods:
        if not value <= 0:
            raise InvalidScoresError(f"{value} is no log-probability; it must be at most 0")
    return -math.fsum(log_likelihoods) / len(log_likelihoods)


def perplexity(log_likelihoods: Sequence[float]) -> float:
    """Return exp of the mean negative log-likelihood, at least 1; inf for an impossible token.

    Raises:
        InvalidScoresError: As of ``mean_nll``.
    """
    loss = mean_nll(log_likelihoods)
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def corpus_perplexity(items: Sequence[Sequence[float]]) -> float:
    """Return the perplexity over all tokens of all items.

    Raises:
        InvalidScoresError: As of ``mean_nll``.
    """
    return perplexity([value for item in items for value in item])
