"""Learned heads: linear over hashed words and word pairs, and linear over sentence embeddings.

A request is read by both, the words at half weight: they know an order that an embedding blurs.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.utils import murmurhash3_32

CARD, WEIGHTS = "heads.json", "heads.safetensors"
FEATURES = 2**16
SAID = "toxicity"
ASKED = ("harm", "misinformation", "privacy", "bias", "injection", "jailbreak")
LEANING = "stereotype"
BY_WORDS = (SAID, *ASKED, LEANING)
_WORDS_SHARE = np.float32(0.5)

Array = NDArray[np.float32]


def vectorizer() -> HashingVectorizer:
    """Return the feature map: words and word pairs, hashed to 65,536 columns."""
    return HashingVectorizer(
        n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False, norm="l2", lowercase=True
    )


class Heads:
    """The artifact in a folder.

    Attributes:
        card: How it was made, and what it showed on data that it had not seen.
        digest: SHA-256 of the weights.

    Args:
        folder: With ``heads.json`` and ``heads.safetensors``.

    Raises:
        ValueError: The weights are not those that the card names, or of another number of heads.
    """

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads((folder / CARD).read_text())
        self.digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if self.digest != self.card["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} does not have the hash that its card states")
        weights = {
            name: found.astype(np.float32) for name, found in load_file(folder / WEIGHTS).items()
        }
        # A row for each column of the feature map, so that a text's few rows lie together.
        self._words = np.ascontiguousarray(weights["words.weight"].T)  # [FEATURES, 8]
        self._words_bias = weights["words.bias"]
        if len(self._words_bias) != len(BY_WORDS):
            raise ValueError(
                f"{WEIGHTS} has {len(self._words_bias)} heads over words, not those of "
                f"{', '.join(BY_WORDS)}; run `make train-scorer`"
            )
        self._meaning, self._meaning_bias = weights["meaning.weight"], weights["meaning.bias"]
        self._terms = vectorizer().build_analyzer()

    def words(self, pieces: Sequence[str]) -> Array:
        """Return logits [len(pieces), 8] from words alone, in the order of ``BY_WORDS``."""
        found: Array = np.empty((len(pieces), len(self._words_bias)), dtype=np.float32)
        for place, piece in enumerate(pieces):
            found[place] = self._sum(piece)
        found += self._words_bias
        return found

    def _sum(self, piece: str) -> Array:
        """Return the product of one text's features and the weights [8].

        The vectorizer's ``transform`` gives the same features; checking its parameters and making
        a sparse matrix takes it ten times as long as this, on the path of every answer.
        """
        columns = [abs(murmurhash3_32(term)) % FEATURES for term in self._terms(piece)]
        if not columns:
            return np.zeros(self._words.shape[1], dtype=np.float32)
        places, counts = np.unique(columns, return_counts=True)
        size = np.sqrt(np.square(counts, dtype=np.float32).sum())
        found: Array = counts.astype(np.float32) / size @ self._words[places]
        return found

    def leaning(self, pieces: Sequence[str]) -> Array:
        """Return logits [len(pieces)]; their difference says which of two is the stereotype."""
        found: Array = self.words(pieces)[:, BY_WORDS.index(LEANING)]
        return found

    def requests(self, pieces: Sequence[str], embedded: Array) -> Array:
        """Return logits [len(pieces), 6] of ``ASKED``.

        Args:
            pieces: Windows of requests.
            embedded: Their embeddings [len(pieces), 384].
        """
        by_words = self.words(pieces)[:, 1 : 1 + len(ASKED)]
        found: Array = embedded @ self._meaning.T + self._meaning_bias + _WORDS_SHARE * by_words
        return found


def store(
    folder: Path,
    words: tuple[Array, Array],
    meaning: tuple[Array, Array],
    card: dict[str, Any],
) -> None:
    """Write an artifact.

    Args:
        folder: Made if it is not there.
        words: Weights [8, FEATURES] and biases [8], in the order of ``BY_WORDS``.
        meaning: Weights [6, 384] and biases [6].
        card: Gets the weights' hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "words.weight": words[0].astype(np.float16),
        "words.bias": words[1].astype(np.float32),
        "meaning.weight": meaning[0].astype(np.float32),
        "meaning.bias": meaning[1].astype(np.float32),
    }
    stored = save({name: np.ascontiguousarray(found) for name, found in tensors.items()})
    (folder / WEIGHTS).write_bytes(stored)
    digest = hashlib.sha256(stored).hexdigest()
    (folder / CARD).write_text(json.dumps({**card, "weights_sha256": digest}, indent=1) + "\n")


def probability(logits: Array) -> Array:
    """Return 1 / (1 + exp(-logits)), element by element."""
    one = np.float32(1)
    found: Array = one / (one + np.exp(-np.clip(logits, -30, 30), dtype=np.float32))
    return found
