"""Classifier heads: linear over hashed words and word pairs, and linear over sentence embeddings.

Requests are scored by both: the logit of a request head is its embedding logit plus half its word
logit, because word pairs keep the word order that a sentence embedding blurs.
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
N_FEATURES = 2**16
RESPONSE_HEAD = "toxicity"
REQUEST_HEADS = ("harm", "misinformation", "privacy", "bias", "injection", "jailbreak")
STEREOTYPE_HEAD = "stereotype"
# Order of the columns of the word weights.
WORD_HEADS = (RESPONSE_HEAD, *REQUEST_HEADS, STEREOTYPE_HEAD)
_WORD_LOGIT_WEIGHT = np.float32(0.5)

Array = NDArray[np.float32]


def build_vectorizer() -> HashingVectorizer:
    """Return the feature map: words and word pairs, hashed to 65,536 columns, unit length."""
    return HashingVectorizer(
        n_features=N_FEATURES, ngram_range=(1, 2), alternate_sign=False, norm="l2", lowercase=True
    )


class ClassifierHeads:
    """Heads of one artifact folder.

    Args:
        folder: Folder with ``heads.json`` and ``heads.safetensors``.

    Attributes:
        card: Metadata of the training run: seed, data digests, thresholds, linear heads.
        digest: SHA-256 of the weights file, hexadecimal.

    Raises:
        ValueError: The weights file does not match the card's hash or has other heads.
    """

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads((folder / CARD).read_text())
        self.digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if self.digest != self.card["weights_sha256"]:
            raise ValueError(f"{WEIGHTS}: hash differs from weights_sha256 in {CARD}")
        weights = {
            name: tensor.astype(np.float32) for name, tensor in load_file(folder / WEIGHTS).items()
        }
        # Transposed: one row per feature, so that the few rows of a text are contiguous reads.
        self._word_weights = np.ascontiguousarray(weights["words.weight"].T)  # [N_FEATURES, 8]
        self._word_biases = weights["words.bias"]
        if len(self._word_biases) != len(WORD_HEADS):
            raise ValueError(
                f"{WEIGHTS}: has {len(self._word_biases)} word heads; expected "
                f"{len(WORD_HEADS)} ({', '.join(WORD_HEADS)}); run `make train-scorer`"
            )
        self._embedding_weights = weights["meaning.weight"]  # [6, 384]
        self._embedding_biases = weights["meaning.bias"]
        self._extract_terms = build_vectorizer().build_analyzer()

    def word_logits(self, windows: Sequence[str]) -> Array:
        """Return word logits [len(windows), 8] in the order of ``WORD_HEADS``."""
        logits: Array = np.empty((len(windows), len(self._word_biases)), dtype=np.float32)
        for index, window in enumerate(windows):
            logits[index] = self._multiply(window)
        logits += self._word_biases
        return logits

    def _multiply(self, window: str) -> Array:
        """Return the product of the features of one window and the word weights [8].

        ``HashingVectorizer.transform`` computes the same features, but its parameter validation
        and sparse matrix make it ten times slower, and this runs for every piece of a response.
        """
        columns = [abs(murmurhash3_32(term)) % N_FEATURES for term in self._extract_terms(window)]
        if not columns:
            return np.zeros(self._word_weights.shape[1], dtype=np.float32)
        rows, counts = np.unique(columns, return_counts=True)
        norm = np.sqrt(np.square(counts, dtype=np.float32).sum())
        product: Array = counts.astype(np.float32) / norm @ self._word_weights[rows]
        return product

    def stereotype_logits(self, windows: Sequence[str]) -> Array:
        """Return logits [len(windows)]; the higher of two texts is the likelier stereotype."""
        logits: Array = self.word_logits(windows)[:, WORD_HEADS.index(STEREOTYPE_HEAD)]
        return logits

    def request_logits(self, windows: Sequence[str], embeddings: Array) -> Array:
        """Return logits [len(windows), 6] in the order of ``REQUEST_HEADS``.

        Args:
            windows: Windows of requests.
            embeddings: Embeddings of the windows [len(windows), 384].
        """
        word_logits = self.word_logits(windows)[:, 1 : 1 + len(REQUEST_HEADS)]
        logits: Array = (
            embeddings @ self._embedding_weights.T
            + self._embedding_biases
            + _WORD_LOGIT_WEIGHT * word_logits
        )
        return logits


def save_heads(
    folder: Path,
    word_heads: tuple[Array, Array],
    embedding_heads: tuple[Array, Array],
    card: dict[str, Any],
) -> None:
    """Write an artifact.

    Args:
        folder: Destination, created if missing.
        word_heads: Weights [8, N_FEATURES] and biases [8] in the order of ``WORD_HEADS``.
        embedding_heads: Weights [6, 384] and biases [6] in the order of ``REQUEST_HEADS``.
        card: Metadata; the hash of the weights file is added to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "words.weight": word_heads[0].astype(np.float16),
        "words.bias": word_heads[1].astype(np.float32),
        "meaning.weight": embedding_heads[0].astype(np.float32),
        "meaning.bias": embedding_heads[1].astype(np.float32),
    }
    serialized = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    (folder / WEIGHTS).write_bytes(serialized)
    digest = hashlib.sha256(serialized).hexdigest()
    (folder / CARD).write_text(json.dumps({**card, "weights_sha256": digest}, indent=1) + "\n")


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + exp(-logits)), element by element."""
    one = np.float32(1)
    result: Array = one / (one + np.exp(-np.clip(logits, -30, 30), dtype=np.float32))
    return result
