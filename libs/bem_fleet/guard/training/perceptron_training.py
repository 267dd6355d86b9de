"""Training of perceptrons over embeddings, with the standardization folded into their weights."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from bem_fleet.guard.scoring.heads import Perceptron

UNITS, MEMBERS = 48, 3
# Strength of the L2 penalty, passes, and members of a rare class for each of the most frequent.
_PENALTY, _EPOCHS = 0.3, 40
_MAX_REPEATS = 4

Array = NDArray[np.float32]


def fit_perceptron(embeddings: Array, classes: NDArray[np.int64], seed: int) -> Perceptron:
    """Return a perceptron whose outputs are class logits, or one logit if there are two classes.

    It is the mean of several that differ by their seed: their units stand side by side.

    Args:
        embeddings: Embeddings [n, inputs].
        classes: Classes [n] from 0; each of them occurs.
        seed: Seed of initial weights and order.
    """
    mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
    rows = _balanced_rows(classes)
    inputs, targets = ((embeddings - mean) / deviation)[rows], classes[rows]
    members = [_fit_member(inputs, targets, MEMBERS * seed + n) for n in range(MEMBERS)]
    hidden = np.concatenate([member.coefs_[0] for member in members], axis=1)
    hidden_bias = np.concatenate([member.intercepts_[0] for member in members])
    output = np.concatenate([member.coefs_[1] for member in members]) / MEMBERS
    output_bias = np.mean([member.intercepts_[1] for member in members], axis=0)
    folded = (hidden / deviation[:, None]).T
    return Perceptron(
        (folded.astype(np.float32), (hidden_bias - folded @ mean).astype(np.float32)),
        (output.T.astype(np.float32), output_bias.astype(np.float32)),
    )


def _fit_member(inputs: Array, targets: NDArray[np.int64], seed: int) -> Any:
    model = MLPClassifier(
        (UNITS,), alpha=_PENALTY, max_iter=_EPOCHS, random_state=seed, batch_size=128,
        learning_rate_init=2e-3, n_iter_no_change=_EPOCHS,
    )  # fmt: skip
    with warnings.catch_warnings():
        # A fixed number of passes is the regularization: it never converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs, targets)


def _balanced_rows(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row numbers in which rare classes are repeated, up to four times."""
    counts = np.bincount(classes)
    repeats = np.clip(np.round((counts.max() / np.maximum(counts, 1)) ** 0.5), 1, _MAX_REPEATS)
    return np.repeat(np.arange(len(classes)), repeats.astype(np.int64)[classes])
