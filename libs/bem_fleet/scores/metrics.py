"""The named scores of an answer against its gold answers: what reports and caches call them."""

from collections.abc import Callable, Sequence

from bem.errors import InvalidScoresError

from bem_fleet.scores.answers import best_of, exact_match, f1
from bem_fleet.scores.formats import answer_format, lenient_answer, strict_answer
from bem_fleet.scores.overlap import bleu, chrf

Score = Callable[[str, Sequence[str]], float]
"""From a reply and the gold answers to a number in [0, 1]."""


def _strict_exact(reply: str, golds: Sequence[str]) -> float:
    answer = strict_answer(reply)
    return 0.0 if answer is None else best_of(exact_match, answer, golds)


def _strict_f1(reply: str, golds: Sequence[str]) -> float:
    answer = strict_answer(reply)
    return 0.0 if answer is None else best_of(f1, answer, golds)


def _lenient_exact(reply: str, golds: Sequence[str]) -> float:
    return best_of(exact_match, lenient_answer(reply), golds)


def _lenient_f1(reply: str, golds: Sequence[str]) -> float:
    return best_of(f1, lenient_answer(reply), golds)


def _text_f1(reply: str, golds: Sequence[str]) -> float:
    return best_of(f1, reply, golds)


def _format(reply: str, golds: Sequence[str]) -> float:  # noqa: ARG001 - one shape for all scores
    return answer_format(reply)


READINGS: dict[str, dict[str, Score]] = {
    # A reply that is not the wanted JSON scores 0.
    "strict": {"exact_match": _strict_exact, "f1": _strict_f1, "valid": _format},
    # Whatever text may be meant is scored: the reading that flatters a verbose baseline.
    "lenient": {"exact_match": _lenient_exact, "f1": _lenient_f1, "valid": _format},
    # Free text, such as a story's answer: overlap with the closest of the golds.
    "text": {"f1": _text_f1, "bleu": bleu, "chrf": chrf},
}


def scores_of(reading: str) -> dict[str, Score]:
    """Return the scores of a reading by name.

    Raises:
        InvalidScoresError: There is no such reading.
    """
    try:
        return READINGS[reading]
    except KeyError as err:
        raise InvalidScoresError(f"reading {reading!r}; known: {', '.join(READINGS)}") from err
