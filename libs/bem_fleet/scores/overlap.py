"""Sentence BLEU and chrF by sacrebleu, scaled to [0, 1]."""

from collections.abc import Sequence
from functools import cache

from bem.errors import InvalidScoresError
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


def bleu(answer: str, golds: Sequence[str]) -> float:
    """Return sentence BLEU over n-grams up to 4 in [0, 1] (Papineni et al., ACL 2002).

    Uses exponential smoothing and effective order, sacrebleu's settings for single sentences.

    Raises:
        InvalidScoresError: There is no gold answer.
    """
    return _to_unit_interval(_bleu_scorer().sentence_score(answer, _require_golds(golds)).score)


def chrf(answer: str, golds: Sequence[str]) -> float:
    """Return chrF2 over character n-grams up to 6 in [0, 1] (Popović, WMT 2015).

    Raises:
        InvalidScoresError: There is no gold answer.
    """
    return _to_unit_interval(_chrf_scorer().sentence_score(answer, _require_golds(golds)).score)


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures, which state its version and every setting, by metric."""
    metrics = {"bleu": _bleu_scorer(), "chrf": _chrf_scorer()}
    for metric in metrics.values():
        metric.sentence_score("a", ["a"])  # the signature is complete only after the first score
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


@cache
def _bleu_scorer() -> BLEU:
    return BLEU(effective_order=True)


@cache
def _chrf_scorer() -> CHRF:
    return CHRF()


def _require_golds(golds: Sequence[str]) -> Sequence[str]:
    if not golds:
        raise InvalidScoresError("golds: no gold answer; at least one is needed")
    return golds


def _to_unit_interval(percent: float) -> float:
    return min(1.0, max(0.0, float(percent) / 100))
