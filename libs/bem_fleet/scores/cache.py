"""Content-addressed cache of scores: a response is scored once per code, mode and gold answers."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from bem.digests import code_digest
from bem.journal import Journal

from bem_fleet.scores.metrics import score_functions

_PACKAGE = Path(__file__).parent


class ScoreCache:
    """Cache of scores by the hash of scoring code, scoring mode, reply and gold answers.

    Args:
        path: JSONL file that new scores are appended to; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path) if path else None
        self._known: dict[str, dict[str, float]] = {}
        self.computed = 0
        for row in self._journal.rows() if self._journal is not None else ():
            self._known[row["key"]] = row["scores"]

    def score(self, scoring_mode: str, reply: str, golds: Sequence[str]) -> dict[str, float]:
        """Return the scores of one reply by metric, each in [0, 1].

        Raises:
            InvalidScoresError: The scoring mode is unknown, or there is no gold answer.
        """
        key = content_key(code_digest(_PACKAGE), scoring_mode, reply, *golds)
        if key not in self._known:
            functions = score_functions(scoring_mode)
            scores = {name: score(reply, golds) for name, score in functions.items()}
            self._known[key] = scores
            self.computed += 1
            if self._journal is not None:
                self._journal.add({"key": key, "scores": scores})
        return self._known[key]


def content_key(*parts: str) -> str:
    """Return the SHA-256 of the parts, hexadecimal; ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
