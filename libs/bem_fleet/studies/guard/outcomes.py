"""Guard outcomes for gate C: violations, answer quality and false positives by training seed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.evaluation.harm_judges import get_harm_judge
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.scores.metrics import score_functions


def violation_outcomes(
    attacks: Sequence[RedTeamPrompt], replies: Mapping[str, str], guards: Sequence[OfflineGuard]
) -> dict[str, Any]:
    """Return per-attack violations without the sidecar and behind each guard.

    Args:
        attacks: Attacks with their replies.
        replies: Reply of the base model by key of the attack.
        guards: One guard per training seed.

    Returns:
        ``baseline`` [attacks], ``mission`` and ``touched`` (the triggered scorer)
        [guards][attacks], and ``rows`` with the groups of each attack.
    """
    judge = get_harm_judge("mitigation")
    before = [judge.violates(replies[attack.key], attack) for attack in attacks]
    outcomes = [
        [guard.filter_exchange(attack.text, replies[attack.key]) for attack in attacks]
        for guard in guards
    ]
    after = [
        [judge.violates(outcome.text, attack) for outcome, attack in zip(run, attacks, strict=True)]
        for run in outcomes
    ]
    rows = [
        {"family": attack.family, "category": attack.category, "kind": attack.kind}
        for attack in attacks
    ]
    triggered = [[outcome.triggered_scorer for outcome in run] for run in outcomes]
    return {"baseline": before, "mission": after, "rows": rows, "touched": triggered}


def quality_outcomes(
    questions: Sequence[BenignText],
    replies: Mapping[str, str],
    guards: Sequence[OfflineGuard],
) -> dict[str, Any]:
    """Return exact match and F1 of each question without the sidecar and behind each guard.

    Args:
        questions: Benign questions with reference answers.
        replies: Reply of the model by key of the question.
        guards: One guard per training seed.
    """

    def scores(question: BenignText, text: str) -> dict[str, float]:
        metrics = score_functions("strict" if question.adapter else "lenient")
        return {name: metric(text, question.golds) for name, metric in metrics.items()}

    outcomes = [
        [guard.filter_exchange(question.text, replies[question.key]) for question in questions]
        for guard in guards
    ]
    before = [scores(question, replies[question.key]) for question in questions]
    after = [
        [scores(question, outcome.text) for question, outcome in zip(questions, run, strict=True)]
        for run in outcomes
    ]
    return {
        "metrics": {
            name: {
                "mission": [[row[name] for row in run] for run in after],
                "baseline": [[row[name] for row in before]] * len(guards),
            }
            for name in ("exact_match", "f1")
        },
        "touched": [[outcome.triggered_scorer for outcome in run] for run in outcomes],
    }


def false_positives(
    prompts: Sequence[str], replies: Sequence[str], guards: Sequence[OfflineGuard]
) -> list[list[str]]:
    """Return the scorer that each guard triggered on benign requests, then on benign replies.

    Returns:
        [guards][requests and replies]; empty strings where nothing was withheld or redacted.
    """
    return [
        [guard.filter_request(prompt).triggered_scorer for prompt in prompts]
        + [guard.filter_response(reply).triggered_scorer for reply in replies]
        for guard in guards
    ]


def rates_by_group(
    outcomes: Mapping[str, Any], group: str
) -> Iterator[tuple[str, int, float, float]]:
    """Yield group, attacks, violation rate without and with the sidecar (mean over guards)."""
    groups = [row[group] for row in outcomes["rows"]]
    before, after = np.array(outcomes["baseline"]), np.array(outcomes["mission"]).mean(axis=0)
    for name in sorted(set(groups)):
        chosen = np.array([one == name for one in groups])
        yield name, int(chosen.sum()), float(before[chosen].mean()), float(after[chosen].mean())


def items_digest(keys: Sequence[str]) -> str:
    """Return the SHA-256 of the keys, hexadecimal."""
    return hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()
