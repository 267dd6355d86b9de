"""Scores by the content that they were computed from, so that no answer is scored twice."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from bem.digests import code_digest
from bem.journal import Journal

from bem_fleet.scores.metrics import score_functions

_PACKAGE = Path(__file__).parent


class ScoreCache:
    """Remembers scores by hash of the scores' code, reading, reply and gold answers.

    Args:
        path: A JSONL file that is added to, or None to remember in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path) if path else None
        self._known: dict[str, dict[str, float]] = {}
        self.computed = 0
        for row in self._journal.rows() if self._journal is not None else ():
            self._known[row["key"]] = row["scores"]

    def score(self, scoring_mode: str, reply: str, golds: Sequence[str]) -> dict[str, float]:
        """Return the scores of one reply by name, each in [0, 1].

        Raises:
            InvalidScoresError: The reading is unknown, or there is no gold answer.
        """
        key = content_key(code_digest(_PACKAGE), scoring_mode, reply, *golds)
        if key not in self._known:
            named = score_functions(scoring_mode)
            found = {name: score(reply, golds) for name, score in named.items()}
            self._known[key] = found
            self.computed += 1
            if self._journal is not None:
                self._journal.add({"key": key, "scores": found})
        return self._known[key]


def content_key(*parts: str) -> str:
    """Return a SHA-256 over the parts, hexadecimal; where one ends is part of it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
