"""Exchanges of the end-to-end safety study: the replies of each arm, and their scores."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.studies.safety.basis_study import answer_scores
from bem_fleet.studies.safety.choice_suite import choice_scores
from bem_fleet.studies.safety.paired_outputs import PairedReplies

ARMS = ("basis", "sidecar", "both")
Texts = list[list[str]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Exchanges:
    """Replies that a client receives.

    Attributes:
        prompts: Attacks, harmless prompts or multiple-choice questions.
        baseline: Replies without C, by prompt.
        arms: Replies in each arm, ``{arm: [seeds][prompts]}``; empty if withheld.
        intervened: Whether the sidecar withheld or changed anything with both halves on,
            ``[seeds][prompts]``.
    """

    prompts: Sequence[Any]
    baseline: list[str]
    arms: dict[str, Texts]
    intervened: list[list[bool]]

    def restricted(self, kept: Sequence[bool]) -> "Exchanges":
        """Return the exchanges of the prompts that are kept."""
        return Exchanges(
            list(compress(self.prompts, kept)),
            list(compress(self.baseline, kept)),
            {arm: [list(compress(run, kept)) for run in texts] for arm, texts in self.arms.items()},
            [list(compress(run, kept)) for run in self.intervened],
        )

    def joined(self, other: "Exchanges") -> "Exchanges":
        """Return these exchanges and then the others, of the same seeds."""
        return Exchanges(
            [*self.prompts, *other.prompts],
            [*self.baseline, *other.baseline],
            {
                arm: [[*one, *two] for one, two in zip(texts, other.arms[arm], strict=True)]
                for arm, texts in self.arms.items()
            },
            [[*one, *two] for one, two in zip(self.intervened, other.intervened, strict=True)],
        )


def filtered_exchanges(
    guards: Sequence[OfflineGuard], prompts: Sequence[Any], replies: PairedReplies
) -> Exchanges:
    """Return the exchanges behind the sidecar of each seed, given the models' replies.

    Args:
        guards: Scorers and policy of the sidecar, one for each safety adapter.
        prompts: Prompts of the replies.
        replies: Replies without and with the safety adapters.
    """
    sidecar, both, intervened = [], [], []
    for guard, run in zip(guards, replies.with_safety, strict=True):
        alone = [
            guard.filter_exchange(p.text, r) for p, r in zip(prompts, replies.baseline, strict=True)
        ]
        # Where the safety adapter changes nothing, both arms have the same exchange.
        combined = [
            one if after == before else guard.filter_exchange(prompt.text, after)
            for prompt, one, before, after in zip(
                prompts, alone, replies.baseline, run, strict=True
            )
        ]
        sidecar.append([one.text for one in alone])
        both.append([one.text for one in combined])
        intervened.append([bool(one.triggered_scorer) for one in combined])
    arms = {"basis": replies.with_safety, "sidecar": sidecar, "both": both}
    return Exchanges(prompts, replies.baseline, arms, intervened)


def harmless_scores(exchanges: Exchanges) -> dict[str, list[list[Scores]]]:
    """Return the scores of harmless exchanges, ``{arm or baseline: [seeds][prompts]}``.

    The baseline has one row: its replies are those of every seed.
    """
    texts = {"baseline": [exchanges.baseline], **exchanges.arms}
    return {
        arm: [[_score(p, r) for p, r in zip(exchanges.prompts, run, strict=True)] for run in runs]
        for arm, runs in texts.items()
    }


def _score(prompt: Any, reply: str) -> Scores:
    if isinstance(prompt, ChoiceQuestion):
        return choice_scores(prompt, reply)
    return answer_scores(prompt, reply)


def scores_by_origin(exchanges: Exchanges) -> dict[str, Scores]:
    """Return exact match without C and in each arm, by origin of the questions."""
    scored = {
        arm: [[row["exact_match"] for row in run] for run in runs]
        for arm, runs in harmless_scores(exchanges).items()
    }
    return rates_by([one.family for one in exchanges.prompts], scored["baseline"][0], scored)


def rates_by(
    names: Sequence[str], before: Sequence[float], scores: dict[str, list[list[float]]]
) -> dict[str, Scores]:
    """Return the mean score of each name without C and in each arm.

    Args:
        names: Name of each prompt's group.
        before: Scores without C, by prompt.
        scores: Scores in each arm, ``{arm: [seeds][prompts]}``.
    """
    indices = defaultdict(list)
    for index, name in enumerate(names):
        indices[name].append(index)
    return {
        name: {
            "items": len(members),
            "without": round(float(np.mean(np.array(before)[members])), 4),
            **{arm: round(float(np.mean(np.array(scores[arm])[:, members])), 4) for arm in ARMS},
        }
        for name, members in sorted(indices.items())
    }
