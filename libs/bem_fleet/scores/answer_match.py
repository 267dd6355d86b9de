"""Exact match and token F1 of short answers, as in the SQuAD 2.0 script (arXiv 1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from bem.errors import InvalidScoresError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return the text in lower case without punctuation and articles, whitespace collapsed."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, gold: str) -> float:
    """Return 1.0 if answer and gold answer are equal after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(gold))


def f1(answer: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over normalised words, in [0, 1].

    Two empty answers score 1, an empty answer against a non-empty one scores 0.
    """
    predicted, reference = normalise(answer).split(), normalise(gold).split()
    if not predicted or not reference:
        return float(predicted == reference)
    common = sum((Counter(predicted) & Counter(reference)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def best_over_golds(score: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    """Return the highest score over all gold answers, as in SQuAD.

    Raises:
        InvalidScoresError: There is no gold answer.
    """
    if not golds:
        raise InvalidScoresError("golds: no gold answer; at least one is needed")
    return max(score(answer, gold) for gold in golds)
