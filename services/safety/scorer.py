"""The first scorer: a linear head over hashed words and word pairs, in a process of its own."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import HashingVectorizer

CARD, WEIGHTS = "card.json", "weights.safetensors"
FEATURES = 2**17
# A violating phrase must not drown in a long text: windows of words are judged one by one.
WINDOW_WORDS, STRIDE_WORDS = 24, 12


def vectorizer() -> HashingVectorizer:
    """Return the feature map: words and word pairs, hashed to 131,072 columns."""
    return HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, norm="l2", lowercase=True
    )


def windows(text: str) -> list[str]:
    """Cut a text into overlapping windows of 24 words, 12 apart."""
    words = text.split()
    if len(words) <= WINDOW_WORDS:
        return [text]
    starts = range(0, len(words) - STRIDE_WORDS, STRIDE_WORDS)
    return [" ".join(words[start : start + WINDOW_WORDS]) for start in starts]


class LinearScorer:
    """Scores texts with the artifact in ``folder``.

    Raises:
        ValueError: The weights are not those that the card names.
    """

    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != card["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} does not have the hash that its card states")
        weights = load_file(folder / WEIGHTS)
        self.category: str = card["category"]
        self.threshold: float = card["threshold"]
        self._weights = weights["weights"].astype(np.float32)
        self._bias = float(weights["bias"][0])
        self._vectorizer = vectorizer()

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return the probability of a violation for each text: the worst of its windows."""
        parts = [windows(text) for text in texts]
        flat = [window for part in parts for window in part]
        logits = self._vectorizer.transform(flat) @ self._weights + self._bias
        scores, at = [], 0
        for part in parts:
            worst = float(logits[at : at + len(part)].max())
            scores.append(1 / (1 + math.exp(-worst)))
            at += len(part)
        return scores


def main(folder: Path) -> None:
    """Answer JSON lines: a list of texts in, their scores out; ends with its input."""
    scorer = LinearScorer(folder)
    hello: dict[str, Any] = {"category": scorer.category, "threshold": scorer.threshold}
    sys.stdout.write(json.dumps(hello) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(scorer.score(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
