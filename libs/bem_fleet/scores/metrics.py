"""Registry of scoring modes: named score functions of a reply against its gold answers."""

from collections.abc import Callable, Sequence

from bem.errors import InvalidScoresError

from bem_fleet.scores.answer_match import best_over_golds, exact_match, f1
from bem_fleet.scores.formats import answer_format, lenient_answer, strict_answer
from bem_fleet.scores.overlap import bleu, chrf

ScoreFunction = Callable[[str, Sequence[str]], float]
"""Function from a reply and its gold answers to a score in [0, 1]."""


def _strict_exact(reply: str, golds: Sequence[str]) -> float:
    answer = strict_answer(reply)
    return 0.0 if answer is None else best_over_golds(exact_match, answer, golds)


def _strict_f1(reply: str, golds: Sequence[str]) -> float:
    answer = strict_answer(reply)
    return 0.0 if answer is None else best_over_golds(f1, answer, golds)


def _lenient_exact(reply: str, golds: Sequence[str]) -> float:
    return best_over_golds(exact_match, lenient_answer(reply), golds)


def _lenient_f1(reply: str, golds: Sequence[str]) -> float:
    return best_over_golds(f1, lenient_answer(reply), golds)


def _text_f1(reply: str, golds: Sequence[str]) -> float:
    return best_over_golds(f1, reply, golds)


def _verbatim(reply: str, golds: Sequence[str]) -> float:
    return float(reply.strip() in golds)


def _format(reply: str, golds: Sequence[str]) -> float:  # noqa: ARG001 - common signature of all scores
    return answer_format(reply)


SCORING_MODES: dict[str, dict[str, ScoreFunction]] = {
    # A reply that is not the required JSON scores 0.
    "strict": {"exact_match": _strict_exact, "f1": _strict_f1, "valid": _format},
    # The answer is extracted from any reply: the mode that favours a verbose baseline.
    "lenient": {"exact_match": _lenient_exact, "f1": _lenient_f1, "valid": _format},
    # Free text: overlap with the closest gold answer.
    "text": {"f1": _text_f1, "bleu": bleu, "chrf": chrf},
    # The gold answer is the complete reply in its format; another spelling scores 0.
    "verbatim": {"exact_match": _verbatim, "f1": _text_f1},
}


def score_functions(scoring_mode: str) -> dict[str, ScoreFunction]:
    """Return the score functions of a scoring mode by metric name.

    Raises:
        InvalidScoresError: The scoring mode is unknown.
    """
    try:
        return SCORING_MODES[scoring_mode]
    except KeyError as err:
        known = ", ".join(SCORING_MODES)
        raise InvalidScoresError(
            f"scoring_mode: {scoring_mode!r} is unknown; known: {known}"
        ) from err
