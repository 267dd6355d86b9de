"""Scorer tiers: a fast tier for every piece of a response, a deep tier for whole texts.

Abuse in responses is a cascade. The fast tier's word head is a screen: where no window reaches the
card's ``abuse_screen`` it settles ``abuse`` as 0, otherwise the score is left to the deep tier,
which embeds the windows that look worst.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import Finding, ScoringQuery
from bem_fleet.guard.policy import ABUSE, LANGUAGE, SPAN_SCORERS
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.embedding import WIDTH, MiniLM
from bem_fleet.guard.scoring.english import english_parts, is_foreign, is_plain_english
from bem_fleet.guard.scoring.heads import (
    REQUEST_HEADS,
    RESPONSE_HEAD,
    WORD_HEADS,
    ClassifierHeads,
    sigmoid,
)
from bem_fleet.guard.scoring.language import unjudged_share
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
# Windows of one text that the slower, multilingual model reads too.
MAX_REREAD_WINDOWS = 2
# Windows that an embedding model remembers: 2 KB each.
_MAX_REMEMBERED = 1024
_SMALLEST = 1e-6
_NO_EMBEDDINGS = np.zeros((0, WIDTH), dtype=np.float32)
_TOXICITY_COLUMN = WORD_HEADS.index(RESPONSE_HEAD)
# Words in another language that a stream needs before it is withheld for them: a quoted sentence
# at its beginning is no answer in that language.
_MIN_STREAM_WORDS = 8
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
        self._languages = tuple(self._heads.card["languages"])

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
            findings.append(Finding(scores | self._text_scores(query, texts)))
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

    def _text_scores(self, query: ScoringQuery, variants: Sequence[str]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if LANGUAGE in query.scorers:
            min_words = 1 if query.complete else _MIN_STREAM_WORDS
            scores[LANGUAGE] = unjudged_share(query.text, self._languages, min_words=min_words)
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

    English windows are read by both embedding models, whose log-odds are averaged: they err on
    different texts. The slower model reads the worst windows of the faster one again, where they
    reach the card's ``reread_screens``: below them hardly any text that both find is lost.

    Args:
        folder: Folder of the heads' artifact.
        model: Embedding model of English texts; None loads the packaged one with its adapter.
        multilingual: Embedding model of all languages; None loads the packaged one.
    """

    def __init__(
        self, folder: Path, model: Embedder | None = None, multilingual: Embedder | None = None
    ) -> None:
        from bem_fleet.guard.scoring.sensitive_data import (  # noqa: PLC0415 - slow to import
            SensitiveDataDetector,
        )

        self._heads = ClassifierHeads(folder)
        self._model = _RememberingEmbedder(model or MiniLM(adapter=self._heads.encoder))
        self._multilingual = _RememberingEmbedder(multilingual or MultilingualE5())
        # Log-odds by which the multilingual model alone errs more than both models together.
        self._foreign_shifts = {
            side: np.float32(shift) for side, shift in self._heads.card["foreign_shifts"].items()
        }
        self._screen = _log_odds(float(self._heads.card["abuse_screen"]))
        self._reread_screens: dict[str, float] = self._heads.card["reread_screens"]
        self._detector = SensitiveDataDetector()

    def score(self, queries: Sequence[ScoringQuery]) -> list[Finding]:
        """Return one finding per query; the windows of all queries are embedded in one batch."""
        windows, odds = self._read_once(queries)
        worst = [
            _worst_rows(one, self._reread_screens[_side(query)])
            for query, one in zip(queries, odds, strict=True)
        ]
        again = [
            [*group.foreign, *(group.english[row] for row in rows)]
            for group, rows in zip(windows, worst, strict=True)
        ]
        findings = []
        for query, group, first, rows, embeddings in zip(
            queries, windows, odds, worst, _split(self._multilingual, again), strict=True
        ):
            second = self._log_odds(query, embeddings, foreign=True)
            split = len(group.foreign)
            combined = (first[rows] + second[split:]) / 2
            alone = second[:split] - self._foreign_shifts[_side(query)]
            # What is not read again is below every threshold by the faster model alone.
            once = first[:0] if rows else first
            scores = self._scores(query, np.concatenate([alone, combined, once]))
            findings.append(Finding(scores).merge(self._detect_sensitive_data(query)))
        return findings

    def highest_first_odds(self, queries: Sequence[ScoringQuery]) -> NDArray[np.float32]:
        """Return the highest log-odds [queries] by the faster model; -inf without English."""
        _, odds = self._read_once(queries)
        return np.array([one.max(initial=-np.inf) for one in odds], dtype=np.float32)

    def _read_once(
        self, queries: Sequence[ScoringQuery]
    ) -> tuple[list[_Windows], list[NDArray[np.float32]]]:
        """Return the windows of each query and their log-odds [windows, scorers], read once."""
        windows = [self._select_windows(query) for query in queries]
        english = _split(self._model, [group.english for group in windows])
        return windows, [
            self._log_odds(query, embeddings)
            for query, embeddings in zip(queries, english, strict=True)
        ]

    def _log_odds(
        self, query: ScoringQuery, embeddings: NDArray[np.float32], *, foreign: bool = False
    ) -> NDArray[np.float32]:
        """Return log-odds [windows, scorers] of the query's embedding scorers."""
        if ABUSE in query.scorers:
            return self._heads.abuse_logits(embeddings, foreign=foreign)[:, None]
        return self._heads.request_logits(embeddings, foreign=foreign)

    def _scores(self, query: ScoringQuery, odds: NDArray[np.float32]) -> dict[str, float]:
        """Return the highest score of all windows by scorer."""
        if not len(odds):
            return {}
        highest = sigmoid(odds.max(axis=0))
        names = (ABUSE,) if ABUSE in query.scorers else REQUEST_HEADS
        return {
            name: float(score)
            for name, score in zip(names, highest, strict=True)
            if name in query.scorers
        }

    def _select_windows(self, query: ScoringQuery) -> _Windows:
        """Return the windows to embed: all of a short text, the most suspicious of a long one.

        Embedding a window of 48 words costs about 20 ms, so the far cheaper word heads rank them.
        """
        other: list[str] = []
        variants: list[str] = []
        if query.scorers & (frozenset(REQUEST_HEADS) | {ABUSE}):
            text = query.text
            if is_foreign(text):
                other = select_foreign_windows(text)
                # A cipher of English passes for another language until it is decoded.
                decoded = [one for one in decode_variants(text)[1:] if is_plain_english(one)]
                text = english_parts(text)
                variants = [*(decode_variants(text) if text else []), *decoded]
            else:
                variants = decode_variants(text)
        if query.scorers & frozenset(REQUEST_HEADS):
            windows, columns = request_windows(variants), slice(1, 1 + len(REQUEST_HEADS))
        else:
            windows = self._suspicious(abuse_windows(variants, sentences=not query.complete))
            columns = slice(_TOXICITY_COLUMN, _TOXICITY_COLUMN + 1)
        if len(windows) > MAX_EMBEDDED_WINDOWS:
            word_logits = self._heads.word_logits(windows)[:, columns].max(axis=1)
            ranked = np.argsort(-word_logits)[: MAX_EMBEDDED_WINDOWS - 2]
            # The first and the last window state the request's intent, whatever their words.
            selected = {0, len(windows) - 1, *map(int, ranked)}
            windows = [windows[index] for index in sorted(selected)]
        return _Windows(windows, other)

    def _suspicious(self, windows: Sequence[str]) -> list[str]:
        """Return the windows whose words the screen does not clear, or the worst one."""
        if not windows:
            return []
        logits = [
            self._heads.word_logits(sliding_windows(window))[:, _TOXICITY_COLUMN].max()
            for window in windows
        ]
        lowest = min(self._screen, max(logits))
        return [one for one, logit in zip(windows, logits, strict=True) if logit >= lowest]

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


def select_foreign_windows(text: str) -> list[str]:
    """Return the windows of a text in another language that are embedded, spread over the text."""
    windows = foreign_windows(text)
    return [windows[index] for index in _spread(len(windows), MAX_EMBEDDED_WINDOWS)]


class _RememberingEmbedder:
    """Embeds windows, and remembers the last ones.

    System prompts recur from request to request, and sentences of a stream from piece to piece.

    Args:
        model: Embedding model.
    """

    def __init__(self, model: Embedder) -> None:
        self._model = model
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self._model.embed(new), strict=True))
        embeddings = np.stack([self._known[text] for text in texts])
        for text in texts:
            self._known.move_to_end(text)
        while len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        return embeddings


def _side(query: ScoringQuery) -> str:
    return "responses" if ABUSE in query.scorers else "requests"


def _log_odds(probability: float) -> float:
    """Return the log-odds of a probability, which may be 0 or 1."""
    clipped = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(clipped / (1 - clipped))


def _split(model: Embedder, groups: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
    """Return the embeddings of each group; all groups are embedded in one batch."""
    flat = [window for group in groups for window in group]
    embeddings = model.embed(flat) if flat else _NO_EMBEDDINGS
    ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
    return np.split(embeddings, ends[:-1])


def _worst_rows(odds: NDArray[np.float32], screen: float) -> list[int]:
    """Return the rows whose highest log-odds are highest and reach the screen.

    Args:
        odds: Log-odds [windows, scorers].
        screen: Lowest log-odds of a row that is returned.

    Returns:
        At most ``MAX_REREAD_WINDOWS`` rows.
    """
    highest = odds.max(axis=1, initial=-np.inf)
    ranked = np.argsort(-highest)[:MAX_REREAD_WINDOWS]
    return [int(row) for row in ranked if highest[row] >= screen]


def _spread(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` indices below ``count``, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return [round(step * (count - 1) / (limit - 1)) for step in range(limit)]
