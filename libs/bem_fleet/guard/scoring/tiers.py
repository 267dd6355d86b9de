"""The two scorer processes: a fast one on the path of every piece, a deep one where it is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import Finding, Query
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.embedding import MiniLM
from bem_fleet.guard.scoring.heads import ASKED, Heads, probability
from bem_fleet.guard.scoring.normalization import readings
from bem_fleet.guard.scoring.windows import asked_windows, fair_windows, windows

FAST = frozenset(("toxicity", "counterfactual", "grounding", "helpfulness"))
DEEP = frozenset((*ASKED, "pii", "secrets"))
# Windows of one request that are embedded: those that read worst by their words.
EMBEDDED = 6


class Tier(Protocol):
    """What a scorer process runs."""

    def read(self, queries: Sequence[Query]) -> list[Finding]:
        """Return a finding a query."""


class Embedder(Protocol):
    """What turns texts into vectors."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [len(texts), 384]."""


class Fast:
    """Words only: about a millisecond a batch.

    Args:
        folder: The heads' artifact.
    """

    def __init__(self, folder: Path) -> None:
        self._heads = Heads(folder)
        self._linear = {
            name: (np.array(row["weight"], dtype=np.float32), float(row["bias"]))
            for name, row in self._heads.card["linear"].items()
        }

    def read(self, queries: Sequence[Query]) -> list[Finding]:
        """Return a finding a query; the words of all queries go through the head together."""
        said = [readings(query.text) for query in queries]
        pieces = [
            [piece for text in texts for piece in windows(text)]
            if "toxicity" in query.wanted
            else []
            for query, texts in zip(queries, said, strict=True)
        ]
        flat = [piece for part in pieces for piece in part]
        read = self._toxicity(flat) if flat else np.zeros(0, dtype=np.float32)
        found, at = [], 0
        for query, texts, part in zip(queries, said, pieces, strict=True):
            scores: dict[str, float] = {}
            if part:
                scores["toxicity"] = float(read[at : at + len(part)].max())
            at += len(part)
            found.append(Finding(scores | self._answer(query, texts)))
        return found

    def _toxicity(self, pieces: Sequence[str]) -> Any:
        return probability(self._heads.words(pieces)[:, 0])

    def _answer(self, query: Query, texts: Sequence[str]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if "counterfactual" in query.wanted:
            scores["counterfactual"] = response_features.unfairness(
                [piece for text in texts for piece in fair_windows(text)], self._heads.leaning
            )
        if not query.whole or not query.asked:
            return scores
        if "helpfulness" in query.wanted:
            features = response_features.help_features(query.asked, query.text)
            scores["helpfulness"] = self._line("helpfulness", features)
        evidence = response_features.evidence_of(query.asked)
        if evidence and "grounding" in query.wanted:
            scores["grounding"] = max(
                self._line("grounding", response_features.grounding_features(evidence, claim))
                for claim in response_features.claims_of(query.text)
            )
        return scores

    def _line(self, name: str, features: Any) -> float:
        weight, bias = self._linear[name]
        return float(probability(np.array([features @ weight + bias], dtype=np.float32))[0])


class Deep:
    """Embeddings of requests, and the libraries that find personal data and secrets.

    Args:
        folder: The heads' artifact.
        model: Embeds; None loads the packaged one.
    """

    def __init__(self, folder: Path, model: Embedder | None = None) -> None:
        from bem_fleet.guard.scoring.privacy import Privacy  # noqa: PLC0415 - slow to import

        self._heads = Heads(folder)
        self._model = model or MiniLM()
        self._privacy = Privacy()

    def read(self, queries: Sequence[Query]) -> list[Finding]:
        """Return a finding a query; the windows of all requests are embedded together."""
        asked = [
            self._suspicious(query.text) if query.wanted & frozenset(ASKED) else []
            for query in queries
        ]
        flat = [piece for part in asked for piece in part]
        logits = (
            self._heads.requests(flat, self._model.embed(flat))
            if flat
            else np.zeros((0, len(ASKED)), dtype=np.float32)
        )
        found, at = [], 0
        for query, part in zip(queries, asked, strict=True):
            scores: dict[str, float] = {}
            if part:
                worst = probability(logits[at : at + len(part)].max(axis=0))
                scores = {
                    name: float(worst[place])
                    for place, name in enumerate(ASKED)
                    if name in query.wanted
                }
            at += len(part)
            found.append(Finding(scores).joined(self._personal(query)))
        return found

    def _suspicious(self, text: str) -> list[str]:
        """Return the windows to embed: all of a short request, of a long one the worst."""
        pieces = asked_windows(readings(text))
        if len(pieces) <= EMBEDDED:
            return pieces
        by_words = self._heads.words(pieces)[:, 1 : 1 + len(ASKED)].max(axis=1)
        chosen = np.argsort(-by_words)[: EMBEDDED - 2]
        # The first and the last window say what is wanted, whatever their words.
        return [pieces[place] for place in sorted({0, len(pieces) - 1, *map(int, chosen)})]

    def _personal(self, query: Query) -> Finding:
        wanted = query.wanted & {"pii", "secrets"}
        if not wanted:
            return Finding()
        spans = self._privacy.spans(query.text, pii="pii" in wanted, secrets="secrets" in wanted)
        scores = {
            name: max((span.score for span in spans if span.scorer == name), default=0.0)
            for name in wanted
        }
        return Finding(scores, tuple(spans))
