"""Exact match and F1 as SQuAD defines them (arXiv 1606.05250), and format validity."""

import json
import re
import string
from collections import Counter
from typing import Any

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


def strict_answer(reply: str) -> str | None:
    """Return the answer of a reply that is exactly ``{"answer": "…"}``, else None."""
    try:
        value: Any = json.loads(reply)
    except ValueError:
        return None
    if isinstance(value, dict) and list(value) == ["answer"] and isinstance(value["answer"], str):
        return value["answer"]
    return None


def lenient_answer(reply: str) -> str:
    """Return whatever may be meant: the strict answer, a quoted answer field, or all of it."""
    if (answer := strict_answer(reply)) is not None:
        return answer
    found = re.search(r'"answer"\s*:\s*"([^"]*)"', reply)
    return found.group(1) if found else reply
