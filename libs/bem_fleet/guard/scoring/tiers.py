"""Scorer tiers: a fast tier for every piece of a response, a deep tier for whole texts.

Abuse in responses is a cascade. The fast tier's word head is a screen: where no window reaches the
card's ``abuse_screen`` it settles ``abuse`` as 0, otherwise the score is left to the deep tier,
which embeds the windows that look worst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import ABUSE, SPAN_SCORERS
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM
from bem_fleet.guard.scoring.english import english_parts, is_foreign
from bem_fleet.guard.scoring.heads import (
    REQUEST_HEADS,
    RESPONSE_HEAD,
    WORD_HEADS,
    ClassifierHeads,
    sigmoid,
)
from bem_fleet.guard.scoring.multilingual import MultilingualE5
from bem_fleet.guard.scoring.normalization import decode_variants
from bem_fleet.guard.scoring.windows import (
    abuse_windows,
    fairness_windows,
    foreign_windows,
    request_windows,
    sliding_windows,
)

# Windows of one text that are embedded: those with the highest word logits.
MAX_EMBEDDED_WINDOWS = 6
_NO_EMBEDDINGS = np.zeros((0, WIDTH), dtype=np.float32)
_TOXICITY_COLUMN = WORD_HEADS.index(RESPONSE_HEAD)
_VARIANT_SCORERS = frozenset((RESPONSE_HEAD, ABUSE, "counterfactual"))


class Tier(Protocol):
    """Scorers that run in one process."""

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query."""


class Embedder(Protocol):
    """Sentence-embedding model."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]."""


class FastTier:
    """Word heads and response features: about a millisecond per batch.

    Args:
        folder: Folder of the heads' artifact.
    """

    def __init__(self, folder: Path) -> None:
        self._heads = ClassifierHeads(folder)
        self._linear_heads = {
            name: (np.array(head["weight"], dtype=np.float32), float(head["bias"]))
            for name, head in self._heads.card["linear"].items()
        }
        self._screen = float(self._heads.card["abuse_screen"])

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query; the windows of all queries are scored in one batch."""
        variants = [
            decode_variants(query.text) if query.scorers & _VARIANT_SCORERS else []
            for query in queries
        ]
        windows = [
            [window for text in texts for window in sliding_windows(text)]
            if query.scorers & {RESPONSE_HEAD, ABUSE}
            else []
            for query, texts in zip(queries, variants, strict=True)
        ]
        flat = [window for group in windows for window in group]
        toxicity = (
            sigmoid(self._heads.word_logits(flat)[:, _TOXICITY_COLUMN])
            if flat
            else np.zeros(0, dtype=np.float32)
        )
        findings, start = [], 0
        for query, texts, group in zip(queries, variants, windows, strict=True):
            scores: dict[str, float] = {}
            if group:
                highest = float(toxicity[start : start + len(group)].max())
                scores = self._screened_scores(query, highest)
            start += len(group)
            findings.append(Finding(scores | self._response_scores(query, texts)))
        return findings

    def _screened_scores(self, query: ScoringQuery, toxicity: float) -> dict[str, float]:
        """Return the scores that words settle; without ``abuse`` the deep tier must score it."""
        scores = {RESPONSE_HEAD: toxicity} if RESPONSE_HEAD in query.scorers else {}
        # A stream in another language is judged at its end: no screen reads it, and the deep tier
        # would have to embed every piece.
        left = query.complete and is_foreign(query.text)
        if ABUSE in query.scorers and toxicity < self._screen and not left:
            scores[ABUSE] = 0.0
        return scores

    def _response_scores(self, query: ScoringQuery, variants: Sequence[str]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if "counterfactual" in query.scorers:
            scores["counterfactual"] = response_features.counterfactual_unfairness(
                [window for text in variants for window in fairness_windows(text)],
                self._heads.stereotype_logits,
            )
        if not query.complete or not query.prompt:
            return scores
        if "helpfulness" in query.scorers:
            features = response_features.helpfulness_features(query.prompt, query.text)
            scores["helpfulness"] = self._linear_score("helpfulness", features)
        evidence = response_features.extract_evidence(query.prompt)
        if evidence and "grounding" in query.scorers:
            scores["grounding"] = max(
                self._linear_score(
                    "grounding", response_features.grounding_features(evidence, claim)
                )
                for claim in response_features.split_claims(query.text)
            )
        return scores

    def _linear_score(self, name: str, features: Any) -> float:
        weight, bias = self._linear_heads[name]
        return float(sigmoid(np.array([features @ weight + bias], dtype=np.float32))[0])


@dataclass(frozen=True)
class _Windows:
    """Windows of one text: of its readings in English, and of the text in other languages."""

    english: list[str]
    foreign: list[str]


class DeepTier:
    """Embedding heads of requests and responses, and the detector of sensitive data.

    Args:
        folder: Folder of the heads' artifact.
        model: Embedding model of English texts; None loads the packaged one with its adapter.
        multilingual: Embedding model of other texts; None loads the packaged one at first use.
    """

    def __init__(
        self, folder: Path, model: Embedder | None = None, multilingual: Embedder | None = None
    ) -> None:
        from bem_fleet.guard.scoring.sensitive_data import (  # noqa: PLC0415 - slow to import
            SensitiveDataDetector,
        )

        self._heads = ClassifierHeads(folder)
        self._model = model or MiniLM(adapter=self._heads.encoder)
        self._multilingual = multilingual
        self._detector = SensitiveDataDetector()

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query; the windows of all queries are embedded in one batch."""
        windows = [self._select_windows(query) for query in queries]
        english = self._embed(self._model, [one for group in windows for one in group.english])
        texts = [one for group in windows for one in group.foreign]
        foreign = self._embed(self._load_multilingual(), texts) if texts else _NO_EMBEDDINGS
        findings, at, foreign_at = [], 0, 0
        for query, group in zip(queries, windows, strict=True):
            end, foreign_end = at + len(group.english), foreign_at + len(group.foreign)
            parts = (english[at:end], foreign[foreign_at:foreign_end])
            at, foreign_at = end, foreign_end
            scores = self._embedding_scores(query, *parts)
            findings.append(Finding(scores).merge(self._detect_sensitive_data(query)))
        return findings

    def _embedding_scores(
        self, query: ScoringQuery, english: NDArray[np.float32], foreign: NDArray[np.float32]
    ) -> dict[str, float]:
        """Return the highest score of all windows by scorer."""
        scores: dict[str, float] = {}
        for embeddings, is_other in ((english, False), (foreign, True)):
            if not len(embeddings):
                continue
            if ABUSE in query.scorers:
                odds = self._heads.abuse_logits(embeddings, foreign=is_other).max(keepdims=True)
                scores[ABUSE] = max(scores.get(ABUSE, 0.0), float(sigmoid(odds)[0]))
            if query.scorers & frozenset(REQUEST_HEADS):
                logits = self._heads.request_logits(embeddings, foreign=is_other)
                highest = sigmoid(logits.max(axis=0))
                scores |= {
                    name: max(scores.get(name, 0.0), float(highest[column]))
                    for column, name in enumerate(REQUEST_HEADS)
                    if name in query.scorers
                }
        return scores

    def _select_windows(self, query: ScoringQuery) -> _Windows:
        """Return the windows to embed: all of a short text, the most suspicious of a long one.

        Embedding a window of 48 words costs about 20 ms, so the far cheaper word heads rank them.
        """
        other: list[str] = []
        variants = []
        if query.scorers & (frozenset(REQUEST_HEADS) | {ABUSE}):
            text = query.text
            if is_foreign(text):
                other = foreign_windows(text)
                other = [other[index] for index in _spread(len(other), MAX_EMBEDDED_WINDOWS)]
                text = english_parts(text)
            variants = decode_variants(text) if text else []
        if query.scorers & frozenset(REQUEST_HEADS):
            windows, columns = request_windows(variants), slice(1, 1 + len(REQUEST_HEADS))
        else:
            windows = abuse_windows(variants)
            columns = slice(_TOXICITY_COLUMN, _TOXICITY_COLUMN + 1)
        if len(windows) > MAX_EMBEDDED_WINDOWS:
            word_logits = self._heads.word_logits(windows)[:, columns].max(axis=1)
            ranked = np.argsort(-word_logits)[: MAX_EMBEDDED_WINDOWS - 2]
            # The first and the last window state the request's intent, whatever their words.
            selected = {0, len(windows) - 1, *map(int, ranked)}
            windows = [windows[index] for index in sorted(selected)]
        return _Windows(windows, other)

    def _embed(self, model: Embedder, windows: Sequence[str]) -> NDArray[np.float32]:
        return model.embed(windows) if windows else _NO_EMBEDDINGS

    def _load_multilingual(self) -> Embedder:
        # 0.2 GB that a fleet whose users write English never needs.
        self._multilingual = self._multilingual or MultilingualE5()
        return self._multilingual

    def _detect_sensitive_data(self, query: ScoringQuery) -> Finding:
        scorers = query.scorers & frozenset(SPAN_SCORERS)
        if not scorers:
            return Finding()
        spans = self._detector.detect(
            query.text, pii="pii" in scorers, secrets="secrets" in scorers, ended=query.ended
        )
        scores = {
            name: max((span.score for span in spans if span.scorer == name), default=0.0)
            for name in scorers
        }
        return Finding(scores, tuple(spans))


def _spread(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` indices below ``count``, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return [round(step * (count - 1) / (limit - 1)) for step in range(limit)]
