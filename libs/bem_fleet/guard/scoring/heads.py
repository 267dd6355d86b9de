"""Classifier heads: linear over hashed words and word pairs, and perceptrons over embeddings.

Requests have one head with a class for harmless requests and one for each category. The category
that is likeliest scores the probability that the request is harmful at all; the others score less
by their distance to it. One threshold thus costs one share of false positives, not six.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from bem_fleet.guard.scoring.word_terms import extract_terms, term_column

CARD, WEIGHTS, ENCODER = "heads.json", "heads.safetensors", "encoder.safetensors"
RESPONSE_HEAD = "toxicity"
REQUEST_HEADS = ("harm", "misinformation", "privacy", "bias", "injection", "jailbreak")
STEREOTYPE_HEAD = "stereotype"
# Order of the columns of the word weights.
WORD_HEADS = (RESPONSE_HEAD, *REQUEST_HEADS, STEREOTYPE_HEAD)
# Perceptrons by side and embedding model, with the number of their outputs: requests have a class
# for harmless ones and one for each category, replies the log-odds of abuse.
PERCEPTRONS = {
    "requests": 1 + len(REQUEST_HEADS),
    "replies": 1,
    "foreign_requests": 1 + len(REQUEST_HEADS),
    "foreign_replies": 1,
}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Perceptron:
    """Perceptron with one hidden layer of rectified units.

    Attributes:
        hidden: Weights [units, inputs] and biases [units].
        output: Weights [outputs, units] and biases [outputs].
    """

    hidden: tuple[Array, Array]
    output: tuple[Array, Array]

    def logits(self, embeddings: Array) -> Array:
        """Return logits [n, outputs] of embeddings [n, inputs]."""
        units = np.maximum(embeddings @ self.hidden[0].T + self.hidden[1], 0)
        logits: Array = units @ self.output[0].T + self.output[1]
        return logits


class ClassifierHeads:
    """Heads of one artifact folder.

    Args:
        folder: Folder with ``heads.json``, ``heads.safetensors`` and ``encoder.safetensors``.

    Attributes:
        card: Metadata of the training run: seed, data digests, thresholds, linear heads.
        digest: SHA-256 of the weights file, hexadecimal.
        encoder: Adapter of the embedding model that the heads were trained on.

    Raises:
        ValueError: A file does not match the card's hash, or there are other heads.
    """

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads((folder / CARD).read_text())
        self.digest = _checked_digest(folder / WEIGHTS, self.card["weights_sha256"])
        self.encoder = folder / ENCODER
        _checked_digest(self.encoder, self.card["encoder_sha256"])
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
        self._perceptrons = {name: _read_perceptron(weights, name) for name in PERCEPTRONS}

    def word_logits(self, windows: Sequence[str]) -> Array:
        """Return word logits [len(windows), 8] in the order of ``WORD_HEADS``."""
        logits: Array = np.empty((len(windows), len(self._word_biases)), dtype=np.float32)
        for index, window in enumerate(windows):
            logits[index] = self._multiply(window)
        logits += self._word_biases
        return logits

    def _multiply(self, window: str) -> Array:
        """Return the product of the features of one window and the word weights [8]."""
        columns = [term_column(term) for term in extract_terms(window)]
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

    def request_logits(self, embeddings: Array, *, foreign: bool = False) -> Array:
        """Return log-odds [n, 6] by category, in the order of ``REQUEST_HEADS``.

        Args:
            embeddings: Embeddings of windows of requests [n, 384].
            foreign: Whether they are those of the multilingual model.
        """
        name = "foreign_requests" if foreign else "requests"
        return category_log_odds(self._perceptrons[name].logits(embeddings))

    def abuse_logits(self, embeddings: Array, *, foreign: bool = False) -> Array:
        """Return log-odds of abuse [n] of windows of responses; arguments as in requests."""
        name = "foreign_replies" if foreign else "replies"
        logits: Array = self._perceptrons[name].logits(embeddings)[:, 0]
        return logits


def category_log_odds(logits: Array) -> Array:
    """Return the log-odds of each category [n, categories] from class logits [n, 1 + categories].

    The likeliest category has the log-odds of any attack against a harmless request; another one
    has less by the difference of their logits. Example: logits 0, 2 and 1 give
    ``log(e^2 + e)``, which is 2.31, and 1.31.

    Args:
        logits: Logits of the classes, the harmless one first.
    """
    categories = logits[:, 1:]
    highest = categories.max(axis=1, keepdims=True)
    attack = highest + np.log(np.exp(categories - highest).sum(axis=1, keepdims=True))
    odds: Array = attack - logits[:, :1] + categories - highest
    return odds


def save_heads(
    folder: Path,
    word_heads: tuple[Array, Array],
    perceptrons: Mapping[str, Perceptron],
    card: dict[str, Any],
) -> None:
    """Write an artifact; the adapter of the embedding model must be in the folder already.

    Args:
        folder: Folder that both files are written to.
        word_heads: Weights [8, N_FEATURES] and biases [8] in the order of ``WORD_HEADS``.
        perceptrons: Heads by their names in ``PERCEPTRONS``.
        card: Metadata; the hashes of both files are added to it.
    """
    tensors = {
        "words.weight": word_heads[0].astype(np.float16),
        "words.bias": word_heads[1].astype(np.float32),
    }
    for name, head in perceptrons.items():
        tensors |= {
            f"{name}.hidden.weight": head.hidden[0].astype(np.float16),
            f"{name}.hidden.bias": head.hidden[1].astype(np.float32),
            f"{name}.output.weight": head.output[0].astype(np.float16),
            f"{name}.output.bias": head.output[1].astype(np.float32),
        }
    serialized = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    (folder / WEIGHTS).write_bytes(serialized)
    hashes = {
        "weights_sha256": hashlib.sha256(serialized).hexdigest(),
        "encoder_sha256": hashlib.sha256((folder / ENCODER).read_bytes()).hexdigest(),
    }
    (folder / CARD).write_text(json.dumps({**card, **hashes}, indent=1) + "\n")


def update_card(folder: Path, **fields: Any) -> dict[str, Any]:
    """Replace fields of an artifact's card, write it, and return it."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text()) | fields
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
    return card


def sigmoid(logits: Array) -> Array:
    """Return 1 / (1 + exp(-logits)), element by element."""
    one = np.float32(1)
    result: Array = one / (one + np.exp(-np.clip(logits, -30, 30), dtype=np.float32))
    return result


def _checked_digest(path: Path, expected: str) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(f"{path.name}: hash differs from that in {CARD}; restore or train it")
    return digest


def _read_perceptron(weights: Mapping[str, Array], name: str) -> Perceptron:
    hidden = weights[f"{name}.hidden.weight"], weights[f"{name}.hidden.bias"]
    output = weights[f"{name}.output.weight"], weights[f"{name}.output.bias"]
    if len(output[1]) != PERCEPTRONS[name]:
        raise ValueError(
            f"{WEIGHTS}: {name} has {len(output[1])} outputs; expected {PERCEPTRONS[name]}; "
            "run `make train-scorer`"
        )
    return Perceptron(hidden, output)
