"""Scores of whole texts by the tiers that serve."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import ABUSE
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD
from bem_fleet.guard.training.served_scores import (
    COUNTERFACTUAL,
    abuse_scores,
    request_scores,
    word_scores,
)


@dataclass
class LengthTier:
    """Scores a text by its length; a screen clears abuse in texts of even length.

    Attributes:
        screens: Whether the tier is the fast one.
        queries: Queries that were scored.
    """

    screens: bool = False
    queries: list[ScoringQuery] = field(default_factory=list)

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query."""
        self.queries += queries
        return [Finding(self._scores(query)) for query in queries]

    def _scores(self, query: ScoringQuery) -> dict[str, float]:
        scores = dict.fromkeys(query.scorers, len(query.text) / 1000)
        if self.screens and ABUSE in scores:
            scores = {} if len(query.text) % 2 else {ABUSE: 0.0}
        return scores


def test_requests_have_a_score_for_each_category() -> None:
    """More texts than a batch keep their order, and each is read whole."""
    texts = ["x" * length for length in range(1, 151)]
    tier = LengthTier()
    scores = request_scores(tier, texts)

    assert np.allclose(scores, np.arange(1, 151)[:, None] / 1000 * np.ones(len(REQUEST_HEADS)))
    assert [query.text for query in tier.queries] == texts
    assert request_scores(tier, []).shape == (0, len(REQUEST_HEADS))


def test_only_what_passes_the_screen_is_read_by_the_deep_tier() -> None:
    """The others score 0, as they are served."""
    texts = ["x" * length for length in range(1, 151)]
    deep = LengthTier()
    scores = abuse_scores(LengthTier(screens=True), deep, texts)

    assert np.allclose(scores, [(n / 1000) * (n % 2) for n in range(1, 151)])
    assert [query.text for query in deep.queries] == texts[::2]
    assert {query.complete for query in deep.queries} == {True}


def test_words_settle_toxicity_and_counterfactual() -> None:
    """Both in one pass over complete replies."""
    tier = LengthTier()
    scores = word_scores(tier, ["ab", "abc"])

    assert {*scores} == {RESPONSE_HEAD, COUNTERFACTUAL}
    assert all(np.allclose(found, [0.002, 0.003]) for found in scores.values())
    assert len(tier.queries) == 2
