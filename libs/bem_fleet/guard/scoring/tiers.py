"""Scorer tiers: a fast tier for every piece of a response, a deep tier for whole texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import SPAN_SCORERS
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, ClassifierHeads, sigmoid
from bem_fleet.guard.scoring.normalization import decode_variants
from bem_fleet.guard.scoring.windows import fairness_windows, request_windows, sliding_windows

# Windows of one request that are embedded: those with the highest word logits.
MAX_EMBEDDED_WINDOWS = 6
_VARIANT_SCORERS = frozenset(("toxicity", "counterfactual"))


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

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query; the windows of all queries are scored in one batch."""
        variants = [
            decode_variants(query.text) if query.scorers & _VARIANT_SCORERS else []
            for query in queries
        ]
        windows = [
            [window for text in texts for window in sliding_windows(text)]
            if "toxicity" in query.scorers
            else []
            for query, texts in zip(queries, variants, strict=True)
        ]
        flat = [window for group in windows for window in group]
        toxicity = (
            sigmoid(self._heads.word_logits(flat)[:, 0]) if flat else np.zeros(0, dtype=np.float32)
        )
        findings, start = [], 0
        for query, texts, group in zip(queries, variants, windows, strict=True):
            scores: dict[str, float] = {}
            if group:
                scores["toxicity"] = float(toxicity[start : start + len(group)].max())
            start += len(group)
            findings.append(Finding(scores | self._response_scores(query, texts)))
        return findings

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


class DeepTier:
    """Embedding heads of requests, and the detector of personal data and secrets.

    Args:
        folder: Folder of the heads' artifact.
        model: Embedding model; None loads the packaged one.
    """

    def __init__(self, folder: Path, model: Embedder | None = None) -> None:
        from bem_fleet.guard.scoring.sensitive_data import (  # noqa: PLC0415 - slow to import
            SensitiveDataDetector,
        )

        self._heads = ClassifierHeads(folder)
        self._model = model or MiniLM()
        self._detector = SensitiveDataDetector()

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query; the windows of all requests are embedded in one batch."""
        windows = [
            self._select_windows(query.text) if query.scorers & frozenset(REQUEST_HEADS) else []
            for query in queries
        ]
        flat = [window for group in windows for window in group]
        logits = (
            self._heads.request_logits(flat, self._model.embed(flat))
            if flat
            else np.zeros((0, len(REQUEST_HEADS)), dtype=np.float32)
        )
        findings, start = [], 0
        for query, group in zip(queries, windows, strict=True):
            scores: dict[str, float] = {}
            if group:
                highest = sigmoid(logits[start : start + len(group)].max(axis=0))
                scores = {
                    name: float(highest[column])
                    for column, name in enumerate(REQUEST_HEADS)
                    if name in query.scorers
                }
            start += len(group)
            findings.append(Finding(scores).merge(self._detect_sensitive_data(query)))
        return findings

    def _select_windows(self, text: str) -> list[str]:
        """Return the windows to embed: all of a short request, the most suspicious of a long one.

        Embedding a window of 48 words costs about 20 ms, so the far cheaper word heads rank them.
        """
        windows = request_windows(decode_variants(text))
        if len(windows) <= MAX_EMBEDDED_WINDOWS:
            return windows
        columns = slice(1, 1 + len(REQUEST_HEADS))
        word_logits = self._heads.word_logits(windows)[:, columns].max(axis=1)
        ranked = np.argsort(-word_logits)[: MAX_EMBEDDED_WINDOWS - 2]
        # The first and the last window state the request's intent, whatever their words.
        selected = {0, len(windows) - 1, *map(int, ranked)}
        return [windows[index] for index in sorted(selected)]

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
