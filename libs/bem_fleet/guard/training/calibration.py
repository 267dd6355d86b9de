"""Calibration of thresholds: the lowest ones that keep the false-positive rates on dev families."""

import math
from collections.abc import Callable, Mapping, Sequence
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
from bem_fleet.guard.training.corpus import BENIGN, Sample
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
REREAD_SHARE = 0.1
"""Share of harmless texts that the slower model reads again: a tenth of its cost."""

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
    """Choose thresholds, screens and foreign shifts on dev texts; return the card.

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
    lowest = min(rounded[name] for name in REQUEST_HEADS)
    screens = {
        "requests": reread_screen(deep, *_harmless(request_queries, requests), lowest),
        "responses": reread_screen(deep, *_harmless(abuse_queries, responses), rounded[ABUSE]),
    }
    return update_card(folder, thresholds=rounded, foreign_shifts=shifts, reread_screens=screens)


def reread_screen(
    deep: DeepTier, queries: Sequence[ScoringQuery], families: Sequence[str], threshold: float
) -> float:
    """Return the log-odds of the faster model below which a text is not read again.

    ``REREAD_SHARE`` of harmless texts of other families reach it, so that it is chosen by what the
    second reading costs. What it loses could be measured on attacks alone, and the heads are fitted
    to those of the training families: new ones look safer to them. It is at most the threshold, so
    that the faster model alone withholds nothing.

    Args:
        deep: Deep tier.
        queries: Queries of harmless development texts.
        families: Family of each text.
        threshold: Lowest threshold of the queries' scorers.
    """
    limit = math.log(threshold / (1 - threshold))
    odds = first_odds(deep, queries)
    screen = threshold_by_family(odds, families, REREAD_SHARE, minimum=-math.inf, maximum=limit)
    return math.floor(1e4 * screen) / 1e4


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


def _harmless(
    make: Callable[[Sequence[str]], list[ScoringQuery]], samples: Sequence[Sample]
) -> tuple[list[ScoringQuery], list[str]]:
    """Return the queries of the benign development texts, and their families."""
    benign = _benign(samples)
    return make([one.text for one in benign]), [one.family for one in benign]


def _benign(samples: Sequence[Sample]) -> list[Sample]:
    return [one for one in samples if one.split == "dev" and one.label == BENIGN]


def is_written(sample: Sample) -> bool:
    """Return whether a sample is of a family that was written for the guard's calibration."""
    return sample.family.startswith("dev_")
