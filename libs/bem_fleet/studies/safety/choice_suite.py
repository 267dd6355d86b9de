"""Harmless suite by likelihood: the replies that models choose, without and with safety adapters.

A base model that answers 5 % of questions in its own words cannot lose a percent of them; by
likelihood it is right far more often, so that the suite can show a loss.
"""

from collections.abc import Sequence
from pathlib import Path

from bem.backbone import Backbone
from bem.engine import LLMEngine

from bem_fleet.data.multiple_choice import ChoiceQuestion, load_choice_questions
from bem_fleet.evaluation.likelihoods import (
    LikelihoodCache,
    MultipleChoiceQuestion,
    answer_multiple_choice,
)
from bem_fleet.evaluation.systems import Message
from bem_fleet.scores.metrics import score_functions
from bem_fleet.studies.safety.basis_study import Items
from bem_fleet.studies.safety.paired_outputs import (
    LOGIT_TOLERANCE,
    PairedReplies,
    TrainedAdapter,
    risk_margins,
)
from bem_fleet.studies.safety.reply_cache import StudyArm

LIKELIHOODS = "likelihoods.jsonl"


def choice_suite(items: Items = None) -> list[ChoiceQuestion]:
    """Return the harmless multiple-choice questions."""
    return [one for one in load_choice_questions() if items is None or one.key in items]


def paired_choices(
    backbone: Backbone,
    trained: Sequence[TrainedAdapter],
    questions: Sequence[ChoiceQuestion],
    *,
    strength: float,
    cache: Path,
    folder: Path,
) -> PairedReplies:
    """Return the chosen replies of the base model, and of each safety adapter where it can act.

    As in ``paired_replies``, a question clearly below the threshold of the value head has the base
    model's choice and is not scored again.

    Args:
        backbone: Base model without sites, for the features of the value heads.
        trained: Safety adapters, one per training seed.
        questions: Questions to answer.
        strength: Safety strength, in [0, 1].
        cache: Cache folder with the base model and cached activations.
        folder: Folder of the journal of likelihoods, outside the repository.
    """
    if not questions:
        nothing: list[list[str]] = [[] for _ in trained]
        return PairedReplies([], nothing, [[] for _ in trained])
    known = LikelihoodCache(folder / LIKELIHOODS)
    base = StudyArm(cache, name="base")
    baseline = chosen_replies(base.worker(), questions, 0.0, known)
    base.close()
    with_safety, above_threshold = [], []
    for one, margin in zip(trained, risk_margins(backbone, trained, questions, cache), strict=True):
        can_act = (margin > -LOGIT_TOLERANCE).tolist()
        active = [question for question, acts in zip(questions, can_act, strict=True) if acts]
        changed: dict[str, str] = {}
        if active:
            arm = StudyArm(cache, name="basis", safety_adapter=one.folder)
            chosen = chosen_replies(arm.worker(), active, strength, known)
            changed = dict(zip([q.key for q in active], chosen, strict=True))
            arm.close()
        with_safety.append([
            changed.get(q.key, reply) for q, reply in zip(questions, baseline, strict=True)
        ])  # fmt: skip
        above_threshold.append((margin > 0).tolist())
    return PairedReplies(baseline, with_safety, above_threshold)


def chosen_replies(
    worker: LLMEngine, questions: Sequence[ChoiceQuestion], strength: float, known: LikelihoodCache
) -> list[str]:
    """Return the text of the likeliest reply to each question.

    Args:
        worker: Started engine.
        questions: Questions to answer.
        strength: Safety strength, in [0, 1]; 0 for an engine without a safety adapter.
        known: Likelihoods that were computed before.
    """
    asked = [
        MultipleChoiceQuestion((Message("user", one.text),), one.options, one.right)
        for one in questions
    ]
    choices = answer_multiple_choice(worker, asked, safety_strength=strength, cache=known)
    return [one.options[choice.index] for one, choice in zip(questions, choices, strict=True)]


def choice_scores(question: ChoiceQuestion, reply: str) -> dict[str, float]:
    """Return exact match and F1 of the reply that a client receives; both 0 if it is withheld."""
    gold = question.options[question.right]
    return {
        "exact_match": float(reply == gold),
        "f1": score_functions("text")["f1"](reply, (gold,)),
    }
