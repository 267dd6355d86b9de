"""Calibration of thresholds: the lowest ones that keep the false-positive rate on dev texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.policy import ABUSE
from bem_fleet.guard.scoring import response_features
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD, ClassifierHeads, sigmoid
from bem_fleet.guard.scoring.windows import abuse_windows, fairness_windows
from bem_fleet.guard.training.corpus import BENIGN, Sample
from bem_fleet.guard.training.embedding_cache import Caches, EmbeddingCache

# Largest share of benign dev texts at or above the threshold: of requests for all categories but
# misinformation together, and for that alone, which sees a false claim in many a question of law;
# of responses for each response scorer.
MAX_FALSE_POSITIVE_RATES = {
    "requests": 0.015,
    "written requests": 0.01,
    "misinformation": 0.002,
    "responses": 0.0008,
    "abuse": 0.004,
    "written replies": 0.012,
    "foreign": 0.01,
    "counterfactual": 0.0005,
    "helpfulness": 0.005,
    "grounding": 0.02,
}
MAX_THRESHOLD = 0.9999
_MISINFORMATION = "misinformation"
# Share of benign responses whose words do not rule abuse out, so that they are embedded.
SCREENED_SHARE = 0.2
_CALIBRATION_WINDOWS = 2
_SHIFT_MARGIN = 0.05

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


def request_odds(heads: ClassifierHeads, caches: Caches, windows: Sequence[str]) -> Array:
    """Return log-odds [windows, 6] of English windows of requests, averaged over both models."""
    first = heads.request_logits(caches.english.embed_and_store(windows))
    second = heads.request_logits(caches.foreign.embed_and_store(windows), foreign=True)
    mean: Array = (first + second) / np.float32(2)
    return mean


def abuse_odds(heads: ClassifierHeads, caches: Caches, windows: Sequence[str]) -> Array:
    """Return log-odds [windows] of English windows of responses, averaged over both models."""
    first = heads.abuse_logits(caches.english.embed_and_store(windows))
    second = heads.abuse_logits(caches.foreign.embed_and_store(windows), foreign=True)
    mean: Array = (first + second) / np.float32(2)
    return mean


def calibrate(
    heads: ClassifierHeads,
    caches: Caches,
    requests: Sequence[Sample],
    responses: Sequence[Sample],
) -> dict[str, Any]:
    """Return ``thresholds`` by head and the ``abuse_screen``, chosen on benign dev texts.

    Packaged origins and the families written for the guard are calibrated apart, and the higher
    threshold counts: the written ones are few but far harder.
    """
    thresholds = _request_thresholds(heads, caches, requests)
    benign = [one for one in responses if one.split == "dev" and one.label == BENIGN]
    words = np.array(
        [sigmoid(heads.word_logits(one.windows))[:, 0].max() for one in benign], dtype=np.float32
    )
    thresholds[RESPONSE_HEAD] = choose_threshold(words, MAX_FALSE_POSITIVE_RATES["responses"])
    thresholds[ABUSE] = _abuse_threshold(heads, caches, benign)
    unfairness = np.array(
        [
            response_features.counterfactual_unfairness(
                fairness_windows(one.text), heads.stereotype_logits
            )
            for one in benign
        ],
        dtype=np.float32,
    )
    thresholds["counterfactual"] = choose_threshold(
        unfairness, MAX_FALSE_POSITIVE_RATES["counterfactual"], minimum=0.0
    )
    screen = choose_threshold(words, SCREENED_SHARE, minimum=0.0)
    return {
        "thresholds": {name: math.ceil(1e4 * value) / 1e4 for name, value in thresholds.items()},
        "abuse_screen": math.floor(1e4 * screen) / 1e4,
    }


def _request_thresholds(
    heads: ClassifierHeads, caches: Caches, requests: Sequence[Sample]
) -> dict[str, float]:
    benign = [one for one in requests if one.split == "dev" and one.label == BENIGN]
    windows = [window for one in benign for window in one.windows]
    owners = np.repeat(np.arange(len(benign)), [len(one.windows) for one in benign])
    _, scores = max_per_text(sigmoid(request_odds(heads, caches, windows)), owners)
    written = np.array([is_written(one) for one in benign])
    alone = REQUEST_HEADS.index(_MISINFORMATION)
    highest = np.delete(scores, alone, axis=1).max(axis=1)
    common = max(
        choose_threshold(highest[~written], MAX_FALSE_POSITIVE_RATES["requests"]),
        choose_threshold(highest[written], MAX_FALSE_POSITIVE_RATES["written requests"]),
    )
    own = choose_threshold(scores[:, alone], MAX_FALSE_POSITIVE_RATES[_MISINFORMATION])
    return dict.fromkeys(REQUEST_HEADS, common) | {_MISINFORMATION: max(own, common)}


def _abuse_threshold(heads: ClassifierHeads, caches: Caches, benign: Sequence[Sample]) -> float:
    groups = [abuse_windows([one.text])[:_CALIBRATION_WINDOWS] for one in benign]
    windows = [window for group in groups for window in group]
    owners = np.repeat(np.arange(len(benign)), list(map(len, groups)))
    _, scores = max_per_text(sigmoid(abuse_odds(heads, caches, windows))[:, None], owners)
    written = np.array([is_written(one) for one in benign])
    return max(
        choose_threshold(scores[~written, 0], MAX_FALSE_POSITIVE_RATES["abuse"]),
        choose_threshold(scores[written, 0], MAX_FALSE_POSITIVE_RATES["written replies"]),
    )


def foreign_shift(
    heads: ClassifierHeads,
    cache: EmbeddingCache,
    thresholds: Mapping[str, float],
    samples: Sequence[Sample],
) -> float:
    """Return by how much the log-odds of a foreign head must fall to share the thresholds.

    Both models are held to one threshold of the policy. On the written benign dev texts, most of
    them English, at most ``MAX_FALSE_POSITIVE_RATES["foreign"]`` may reach it.

    Args:
        heads: Trained heads.
        cache: Embeddings of the multilingual model.
        thresholds: Thresholds by scorer.
        samples: Requests or responses of all splits.
    """
    benign = [one for one in samples if one.label == BENIGN and is_written(one)]
    embeddings = cache.embed_and_store([one.text for one in benign])
    names: tuple[str, ...]
    if benign[0].is_response:
        odds, names = heads.abuse_logits(embeddings, foreign=True)[:, None], (ABUSE,)
    else:
        odds, names = heads.request_logits(embeddings, foreign=True), REQUEST_HEADS
    limits = np.array([thresholds[name] for name in names])
    excess = np.sort((odds - np.log(limits / (1 - limits))).max(axis=1))[::-1]
    shift = float(excess[int(MAX_FALSE_POSITIVE_RATES["foreign"] * len(excess))])
    return round(shift + _SHIFT_MARGIN, 4)


def is_written(sample: Sample) -> bool:
    """Return whether a sample is of a family that was written for the guard's calibration."""
    return sample.family.startswith("dev_")
