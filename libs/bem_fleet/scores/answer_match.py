"""Exact match and F1 as the official script of SQuAD 2.0 computes them (arXiv 1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from bem.errors import InvalidScoresError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-case, drop punctuation and articles, collapse blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, gold: str) -> float:
    """Return 1.0 if both are the same after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(gold))


def f1(answer: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over normalised words, in [0, 1].

    Two empty answers count as equal, one empty answer as wrong.
    """
    given, wanted = normalise(answer).split(), normalise(gold).split()
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def best_over_golds(score: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    """Return the highest score over all gold answers, as SQuAD does.

    Raises:
        InvalidScoresError: There is no gold answer.
    """
    if not golds:
        raise InvalidScoresError("no gold answer; at least one is needed")
    return max(score(answer, gold) for gold in golds)
