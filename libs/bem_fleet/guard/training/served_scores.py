"""Scores of whole texts by the tiers that serve: what is calibrated is what is served.

All windows, both embedding models, the screen of the fast tier and the choice of windows of long
texts are those of ``guard.scoring.tiers``. The sidecar cuts texts of more than 4,096 characters
before the tiers see them; no text of the corpus is as long.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import ABUSE
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD
from bem_fleet.guard.scoring.tiers import DeepTier, Tier

COUNTERFACTUAL = "counterfactual"
# Texts that are embedded together.
_BATCH = 64

Array = NDArray[np.float32]


def request_scores(deep: Tier, texts: Sequence[str]) -> Array:
    """Return the scores [texts, 6] of requests by category, in the order of ``REQUEST_HEADS``.

    Args:
        deep: Deep tier.
        texts: Requests of users, each of up to 4,096 characters.
    """
    rows = [
        [finding.scores.get(name, 0.0) for name in REQUEST_HEADS]
        for finding in _score(deep, request_queries(texts))
    ]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(REQUEST_HEADS))


def word_scores(fast: Tier, texts: Sequence[str]) -> dict[str, Array]:
    """Return the scores [texts] of replies that words settle: toxicity and counterfactual.

    Args:
        fast: Fast tier.
        texts: Complete replies.
    """
    names = (RESPONSE_HEAD, COUNTERFACTUAL)
    queries = [ScoringQuery(text, "response", frozenset(names)) for text in texts]
    found = list(_score(fast, queries))
    return {
        name: np.array([finding.scores[name] for finding in found], dtype=np.float32)
        for name in names
    }


def abuse_scores(fast: Tier, deep: Tier, texts: Sequence[str]) -> Array:
    """Return the scores [texts] of abuse in replies; 0 where the screen clears a reply.

    Args:
        fast: Fast tier, which screens.
        deep: Deep tier, which scores what passes the screen.
        texts: Complete replies.
    """
    queries = abuse_queries(texts)
    left = [
        number
        for number, finding in enumerate(_score(fast, queries))
        if ABUSE not in finding.scores
    ]
    scores = np.zeros(len(texts), dtype=np.float32)
    for number, finding in zip(left, _score(deep, [queries[n] for n in left]), strict=True):
        scores[number] = finding.scores.get(ABUSE, 0.0)
    return scores


def first_odds(deep: DeepTier, queries: Sequence[ScoringQuery]) -> Array:
    """Return the highest log-odds [queries] by the faster model; -inf without English."""
    found = [
        deep.highest_first_odds(queries[start : start + _BATCH])
        for start in range(0, len(queries), _BATCH)
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


def request_queries(texts: Sequence[str]) -> list[ScoringQuery]:
    """Return the queries of the categories of requests."""
    return [ScoringQuery(text, "request", frozenset(REQUEST_HEADS)) for text in texts]


def abuse_queries(texts: Sequence[str]) -> list[ScoringQuery]:
    """Return the queries of abuse in complete replies."""
    return [ScoringQuery(text, "response", frozenset((ABUSE,))) for text in texts]


def _score(tier: Tier, queries: Sequence[ScoringQuery]) -> Iterator[Finding]:
    for start in range(0, len(queries), _BATCH):
        yield from tier.score(queries[start : start + _BATCH])
