"""Calibration of thresholds: the lowest ones that keep the false-positive rates on dev families."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bem_fleet.guard.findings import ScoringQuery
from bem_fleet.guard.policy import ABUSE
from bem_fleet.guard.scoring.heads import (
    REQUEST_HEADS,
    RESPONSE_HEAD,
    ClassifierHeads,
    update_card,
)
from bem_fleet.guard.scoring.tiers import DeepTier, FastTier, Tier, select_foreign_windows
from bem_fleet.guard.training.corpus import BENIGN, FITTED_SPLITS, Sample
from bem_fleet.guard.training.embedding_cache import Caches, EmbeddingCache, StoringEmbedder
from bem_fleet.guard.training.family_rates import MAX_FALSE_POSITIVE_RATES, threshold_by_family
from bem_fleet.guard.training.served_scores import (
    COUNTERFACTUAL,
    abuse_queries,
    abuse_scores,
    first_odds,
    request_queries,
    request_scores,
    word_scores,
)

_MISINFORMATION = "misinformation"
# Share of benign responses whose words do not rule abuse out, so that they are embedded.
SCREENED_SHARE = 0.2
_SHIFT_MARGIN = 0.05
# Shift at which no text in another language reaches a threshold.
_SILENT = 1e3
# Share of the texts that both models find and that the slower one no longer reads.
_LOST_SHARE = 0.002

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


def calibrate(
    folder: Path, caches: Caches, requests: Sequence[Sample], responses: Sequence[Sample]
) -> dict[str, Any]:
    """Choose thresholds, screens and foreign shifts on train and dev texts; return the card.

    Texts are scored by the tiers that serve, which read the card: it is written after each step.
    Packaged origins and the families written for the guard are calibrated apart, and the higher
    threshold counts: the written ones are harder. In each part every family weighs the same.

    Args:
        folder: Folder of trained heads.
        caches: Embeddings of windows.
        requests: Requests of all splits.
        responses: Responses of all splits.
    """
    replies = _benign(responses)
    texts = [one.text for one in replies]
    words = word_scores(FastTier(folder), texts)
    thresholds = {
        RESPONSE_HEAD: _threshold(words[RESPONSE_HEAD], replies, "responses"),
        COUNTERFACTUAL: _threshold(words[COUNTERFACTUAL], replies, COUNTERFACTUAL, minimum=0.0),
    }
    families = [one.family for one in replies]
    screen = threshold_by_family(words[RESPONSE_HEAD], families, SCREENED_SHARE, minimum=0.0)
    update_card(
        folder,
        abuse_screen=math.floor(1e4 * screen) / 1e4,
        foreign_shifts={"requests": _SILENT, "responses": _SILENT},
        reread_screens={"requests": -_SILENT, "responses": -_SILENT},
    )
    deep = DeepTier(folder, StoringEmbedder(caches.english), StoringEmbedder(caches.foreign))
    thresholds[ABUSE] = _threshold(abuse_scores(FastTier(folder), deep, texts), replies, ABUSE)
    thresholds |= _request_thresholds(deep, _benign(requests))
    rounded = {name: math.ceil(1e4 * value) / 1e4 for name, value in thresholds.items()}
    heads = ClassifierHeads(folder)
    shifts = {
        side: foreign_shift(heads, caches.foreign, rounded, samples)
        for side, samples in (("requests", requests), ("responses", responses))
    }
    screens = {
        "requests": request_screen(deep, rounded, requests),
        "responses": abuse_screen(FastTier(folder), deep, rounded[ABUSE], responses),
    }
    return update_card(folder, thresholds=rounded, foreign_shifts=shifts, reread_screens=screens)


def request_screen(
    deep: DeepTier, thresholds: Mapping[str, float], requests: Sequence[Sample]
) -> float:
    """Return the log-odds of the faster model below which a request is not read again.

    Args:
        deep: Deep tier that reads every request again.
        thresholds: Thresholds by scorer.
        requests: Requests of all splits.
    """
    texts = _fitted_attacks(requests)
    limits = np.array([thresholds[name] for name in REQUEST_HEADS], dtype=np.float32)
    found = np.any(request_scores(deep, texts) >= limits, axis=1)
    return _reread_screen(deep, request_queries(texts), found, float(limits.min()))


def abuse_screen(
    fast: Tier, deep: DeepTier, threshold: float, responses: Sequence[Sample]
) -> float:
    """Return the log-odds of the faster model below which a reply is not read again."""
    texts = _fitted_attacks(responses)
    found = np.greater_equal(abuse_scores(fast, deep, texts), threshold)
    return _reread_screen(deep, abuse_queries(texts), found, threshold)


def _fitted_attacks(samples: Sequence[Sample]) -> list[str]:
    return [one.text for one in samples if one.label != BENIGN and one.split in FITTED_SPLITS]


def _reread_screen(
    deep: DeepTier, queries: Sequence[ScoringQuery], found: NDArray[np.bool_], threshold: float
) -> float:
    """Return the highest screen that loses at most ``_LOST_SHARE`` of what is found.

    It is at most the threshold, so that the faster model alone withholds nothing.
    """
    limit = math.log(threshold / (1 - threshold))
    if not found.any():
        return round(limit, 4)
    kept = [one for one, is_found in zip(queries, found, strict=True) if is_found]
    odds = first_odds(deep, kept)
    english = odds[np.isfinite(odds)]
    lowest = float(np.quantile(english, _LOST_SHARE)) if len(english) else limit
    return math.floor(1e4 * min(lowest, limit)) / 1e4


def _request_thresholds(deep: Tier, benign: Sequence[Sample]) -> dict[str, float]:
    scores = request_scores(deep, [one.text for one in benign])
    alone = REQUEST_HEADS.index(_MISINFORMATION)
    common = _threshold(np.delete(scores, alone, axis=1).max(axis=1), benign, "requests")
    own = _threshold(scores[:, alone], benign, _MISINFORMATION)
    return dict.fromkeys(REQUEST_HEADS, common) | {_MISINFORMATION: max(own, common)}


def _threshold(
    scores: Array, samples: Sequence[Sample], rate: str, *, minimum: float = 0.5
) -> float:
    """Return the higher of the thresholds of packaged and of written families.

    Args:
        scores: Score of each sample [samples].
        samples: Benign samples.
        rate: Key of ``MAX_FALSE_POSITIVE_RATES``.
        minimum: Lowest threshold returned.
    """
    written = np.array([is_written(one) for one in samples])
    families = np.array([one.family for one in samples])
    return max(
        threshold_by_family(
            scores[part], families[part], MAX_FALSE_POSITIVE_RATES[rate], minimum=minimum
        )
        for part in (written, ~written)
        if part.any()
    )


def foreign_shift(
    heads: ClassifierHeads,
    cache: EmbeddingCache,
    thresholds: Mapping[str, float],
    samples: Sequence[Sample],
) -> float:
    """Return by how much the log-odds of a foreign head must fall to share the thresholds.

    Both models are held to one threshold of the policy. The written benign dev texts, most of them
    English, are read as texts in other languages are: at most the rate of ``abuse`` or of
    ``requests`` may reach it.

    Args:
        heads: Trained heads.
        cache: Embeddings of the multilingual model.
        thresholds: Thresholds by scorer.
        samples: Requests or responses of all splits.
    """
    benign = [one for one in _benign(samples) if is_written(one)]
    groups = [select_foreign_windows(one.text) for one in benign]
    embeddings = cache.embed_and_store([window for group in groups for window in group])
    is_response = benign[0].is_response
    names = (ABUSE,) if is_response else REQUEST_HEADS
    odds = (
        heads.abuse_logits(embeddings, foreign=True)[:, None]
        if is_response
        else heads.request_logits(embeddings, foreign=True)
    )
    limits = np.array([thresholds[name] for name in names], dtype=np.float32)
    excess = (odds - np.log(limits / (1 - limits))).max(axis=1)
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    shift = threshold_by_family(
        np.maximum.reduceat(excess, starts),
        [one.family for one in benign],
        MAX_FALSE_POSITIVE_RATES[ABUSE if is_response else "requests"],
        minimum=-math.inf,
        maximum=math.inf,
    )
    return round(shift + _SHIFT_MARGIN, 4)


def _benign(samples: Sequence[Sample]) -> list[Sample]:
    return [one for one in samples if one.split == "dev" and one.label == BENIGN]


def is_written(sample: Sample) -> bool:
    """Return whether a sample is of a family that was written for the guard's calibration."""
    return sample.family.startswith("dev_")
