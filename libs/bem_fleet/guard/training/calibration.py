"""Calibration of thresholds: the lowest ones that keep the false-positive rate on dev texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD, ClassifierHeads, sigmoid
from bem_fleet.guard.scoring.windows import fairness_windows
from bem_fleet.guard.training.corpus import BENIGN, Sample
from bem_fleet.guard.training.embedding_cache import EmbeddingCache

# Largest share of benign dev texts at or above the threshold: of requests for the six request
# heads together, of responses for each response scorer.
MAX_FALSE_POSITIVE_RATES = {
    "requests": 0.005,
    "responses": 0.0008,
    "counterfactual": 0.0005,
    "helpfulness": 0.005,
    "grounding": 0.02,
}
MAX_THRESHOLD = 0.9999

Array = NDArray[np.float32]


@dataclass(frozen=True)
class WindowSplit:
    """Windows of all samples of one split.

    Attributes:
        windows: The windows [n].
        labels: Label of each window's sample [n].
        owners: Index of each window's sample [n].
    """

    windows: list[str]
    labels: NDArray[np.str_]
    owners: NDArray[np.int64]


def select_split(samples: Sequence[Sample], split: str) -> WindowSplit:
    """Return the windows of the samples of one split."""
    rows = [
        (window, sample.label, index)
        for index, sample in enumerate(samples)
        if sample.split == split
        for window in sample.windows
    ]
    windows, labels, owners = zip(*rows, strict=True)
    return WindowSplit(list(windows), np.array(labels), np.array(owners))


def max_per_text(scores: Array, owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Return the highest window score of each text.

    Args:
        scores: Scores [windows, heads].
        owners: Index of each window's text [windows].

    Returns:
        Indices of the texts [texts], and their scores [texts, heads].
    """
    indices, inverse = np.unique(owners, return_inverse=True)
    highest = np.full((len(indices), scores.shape[1]), -np.inf, dtype=np.float32)
    np.maximum.at(highest, inverse, scores)
    return indices, highest


def choose_threshold(benign: Array, rate: float, *, minimum: float = 0.5) -> float:
    """Return the lowest threshold that at most a share ``rate`` of the benign texts reaches.

    Args:
        benign: Scores of benign texts [texts].
        rate: Allowed share of false positives, 0 to 1.
        minimum: Lowest threshold returned; the highest is 0.9999.
    """
    ranked = np.sort(benign)[::-1]
    allowed = int(rate * len(ranked))
    # Just above the first score that may no longer be a false positive.
    return float(np.clip(np.nextafter(ranked[allowed], np.float32(2)), minimum, MAX_THRESHOLD))


def choose_joint_thresholds(benign: Array, rate: float) -> list[float]:
    """Return one threshold per head such that all heads together keep the false-positive rate.

    Every head gets the same budget of false positives: the largest at which at most a share
    ``rate`` of the texts reaches the threshold of any head. Example: of 1,000 texts at a rate of
    0.5 %, five may be false positives. Six heads that err on six different texts exceed that with
    a budget of one text each, so their budget is zero.

    Args:
        benign: Scores of benign texts [texts, heads].
        rate: Allowed share of false positives of all heads together, 0 to 1.
    """
    for budget in range(int(rate * len(benign)), -1, -1):
        thresholds = [choose_threshold(column, budget / len(benign)) for column in benign.T]
        reached = benign >= np.array(thresholds, dtype=np.float32)
        if reached.any(axis=1).mean() <= rate:
            return thresholds
    return [MAX_THRESHOLD] * benign.shape[1]


def calibrate_thresholds(
    heads: ClassifierHeads,
    cache: EmbeddingCache,
    requests: Sequence[Sample],
    responses: Sequence[Sample],
) -> dict[str, float]:
    """Return the threshold of each head, chosen on benign dev texts and rounded up to 1e-4."""
    dev = select_split(requests, "dev")
    logits = heads.request_logits(dev.windows, cache.embed_and_store(dev.windows))
    indices, scores = max_per_text(sigmoid(logits), dev.owners)
    benign = np.array([requests[index].label == BENIGN for index in indices])
    chosen = choose_joint_thresholds(scores[benign], MAX_FALSE_POSITIVE_RATES["requests"])
    thresholds = dict(zip(REQUEST_HEADS, chosen, strict=True))
    dev = select_split(responses, "dev")
    indices, scores = max_per_text(sigmoid(heads.word_logits(dev.windows)), dev.owners)
    benign = np.array([responses[index].label == BENIGN for index in indices])
    thresholds[RESPONSE_HEAD] = choose_threshold(
        scores[benign, 0], MAX_FALSE_POSITIVE_RATES["responses"]
    )
    unfairness = np.array(
        [
            response_features.counterfactual_unfairness(
                fairness_windows(responses[index].text), heads.stereotype_logits
            )
            for index, is_benign in zip(indices, benign, strict=True)
            if is_benign
        ],
        dtype=np.float32,
    )
    thresholds["counterfactual"] = choose_threshold(
        unfairness, MAX_FALSE_POSITIVE_RATES["counterfactual"], minimum=0.0
    )
    return {name: math.ceil(1e4 * value) / 1e4 for name, value in thresholds.items()}
