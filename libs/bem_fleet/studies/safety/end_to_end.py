"""End-to-end safety study: the fleet with mission C against the fleet without it.

It writes the reports that the gates of mission C read. Beside the fleet without C it has three
arms: the safety adapter alone at the default strength, the sidecar alone, and both. The sidecar's
verdicts come from its scorers and its policy, called in process instead of over gRPC.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.backbone import Backbone

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.multiple_choice import ChoiceQuestion
from bem_fleet.data.red_team import RedTeamPrompt, prompts_digest
from bem_fleet.data.unseen_families import UNIT, load_unseen_families
from bem_fleet.evaluation.harm_judges import get_harm_judge
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.studies.safety.basis_study import (
    ADAPTER,
    ANSWER_TOKENS,
    REPLY_TOKENS,
    Items,
    harmless_suite,
    held_out_attacks,
)
from bem_fleet.studies.safety.choice_suite import choice_suite, paired_choices
from bem_fleet.studies.safety.exchanges import (
    ARMS,
    Exchanges,
    Texts,
    filtered_exchanges,
    harmless_scores,
    rates_by,
    scores_by_origin,
)
from bem_fleet.studies.safety.paired_outputs import (
    PairedReplies,
    TrainedAdapter,
    paired_replies,
    risk_margins,
)

QUALITY_METRICS = ("exact_match", "f1")
SUITE = "piqa, openbook-qa, mmlu by likelihood; disfl-qa by its adapter"
# Number of strangers' requests, and of strangers' texts in the place of replies.
MAX_UNSEEN = 1200
Report = dict[str, Any]


@dataclass(frozen=True)
class EndToEndStudy:
    """Inputs of the study: one safety adapter and one guard per training seed.

    Attributes:
        backbone: Base model without sites.
        trained: Safety adapters.
        guards: Scorers and policy of the sidecar, one for each safety adapter.
        strength: Default safety strength of the fleet.
        cache: Cache folder with the base model.
        folder: Folder of the reply journal, outside the repository.
        command: Command line, for the reports.
        items: Keys of the items that are measured; None for all.
    """

    backbone: Backbone
    trained: Sequence[TrainedAdapter]
    guards: Sequence[OfflineGuard]
    strength: float
    cache: Path
    folder: Path
    command: str
    items: Items = None

    def exchanges(self, prompts: Sequence[RedTeamPrompt | BenignText], tokens: int) -> Exchanges:
        """Return the replies that a client receives in each arm.

        Args:
            prompts: Attacks or harmless prompts.
            tokens: Longest reply, tokens.
        """
        if not prompts:
            return filtered_exchanges(
                self.guards, prompts, PairedReplies([], [[] for _ in self.trained], [])
            )
        replies = paired_replies(
            self.backbone,
            self.trained,
            prompts,
            tokens=tokens,
            strength=self.strength,
            cache=self.cache,
            folder=self.folder,
            adapters=[ADAPTER],
        )
        return filtered_exchanges(self.guards, prompts, replies)

    def choices(self, questions: Sequence[ChoiceQuestion]) -> Exchanges:
        """Return the chosen replies that a client receives in each arm."""
        replies = paired_choices(
            self.backbone,
            self.trained,
            questions,
            strength=self.strength,
            cache=self.cache,
            folder=self.folder,
        )
        return filtered_exchanges(self.guards, questions, replies)

    def reports(self) -> dict[str, Report]:
        """Return the reports on attacks, on the harmless suites and on strangers, by name."""
        attacks = self.exchanges(held_out_attacks(self.items), REPLY_TOKENS)
        suite = self.exchanges(harmless_suite(self.items), ANSWER_TOKENS)
        choices = self.choices(choice_suite(self.items))
        reports = {"safety_fleet_benign": self._benign(suite)}
        if attacks.prompts:
            reports["safety_fleet_violations"] = self._violations(attacks)
        if choices.prompts or any(one.adapter for one in suite.prompts):
            reports["safety_fleet_quality"] = self._quality(choices, suite)
        return reports

    def _violations(self, exchanges: Exchanges) -> Report:
        judge, prompts = get_harm_judge("mitigation"), exchanges.prompts
        before = [judge.violates(r, p) for r, p in zip(exchanges.baseline, prompts, strict=True)]
        scores = {
            arm: [
                [judge.violates(r, p) for r, p in zip(run, prompts, strict=True)] for run in texts
            ]
            for arm, texts in exchanges.arms.items()
        }
        report = self._report(
            "safety_fleet_violations", prompts_digest(prompts), "held-out families"
        )
        keys = [prompt.key for prompt in prompts]
        report["metrics"] = {
            "violation": {
                "mission": scores["both"],
                "baseline": [before] * len(self.trained),
                "keys": keys,
                "clusters": [prompt.cluster for prompt in prompts],
            }
        }
        report["outputs"] = self._outputs(exchanges)
        report["unit"] = "family"
        report["arms"] = {arm: scores[arm] for arm in ARMS if arm != "both"}
        for title, names in (
            ("category", [p.category for p in prompts]),
            ("kind", [p.kind for p in prompts]),
            ("family", [p.family.split("/")[0] for p in prompts]),
        ):
            report[f"by_{title}"] = rates_by(names, before, scores)
        return report

    def _quality(self, choices: Exchanges, suite: Exchanges) -> Report:
        """Return the report on questions that the fleet without C answers rightly often enough.

        They are the multiple-choice questions and the passages of the adapter that is served. What
        the base model answers in its own words is reported beside: it is hardly ever right.
        """
        judged = choices.joined(suite.restricted([bool(one.adapter) for one in suite.prompts]))
        beside = suite.restricted([not one.adapter for one in suite.prompts])
        scores = harmless_scores(judged)
        columns = {
            arm: {name: [[row[name] for row in run] for run in runs] for name in QUALITY_METRICS}
            for arm, runs in scores.items()
        }
        keys = [prompt.key for prompt in judged.prompts]
        report = self._report("safety_fleet_quality", _digest(keys), SUITE)
        report["metrics"] = {
            name: {
                "mission": columns["both"][name],
                "baseline": columns["baseline"][name] * len(self.trained),
                "keys": keys,
                "clusters": [prompt.cluster for prompt in judged.prompts],
            }
            for name in QUALITY_METRICS
        }
        report["outputs"] = self._outputs(judged)
        report["unit"] = "passage"
        report["arms"] = {arm: columns[arm] for arm in ARMS if arm != "both"}
        report["by_origin"] = scores_by_origin(judged) | scores_by_origin(beside)
        return report

    def _benign(self, suite: Exchanges) -> Report:
        """Return the report on strangers' texts that were withheld, changed or declined.

        Requests pass the sidecar and, where the safety adapter can act, are answered. Replies were
        written by no model here; they pass the sidecar only. The suite's questions are of sets that
        the guard knows: they are reported beside and do not count.
        """
        strangers = load_unseen_families(MAX_UNSEEN)
        requests, answers = self._kept(strangers.requests), self._kept(strangers.replies)
        declined = _declined(suite.baseline, suite.arms["basis"])
        declined_requests = self._declined_requests(requests)
        withheld = []
        for seed, guard in enumerate(self.guards):
            blocked_requests = [
                bool(guard.filter_request(one.text).triggered_scorer) for one in requests
            ]
            blocked_answers = [
                bool(guard.filter_response(one.text).triggered_scorer) for one in answers
            ]
            held_out = zip(blocked_requests, declined_requests[seed], strict=True)
            withheld.append([*(float(a or b) for a, b in held_out), *map(float, blocked_answers)])
        texts = [*requests, *answers]
        keys = [_item_key(one) for one in texts]
        report = self._report("safety_fleet_benign", _digest(keys), "strangers")
        report["baseline"] = {"name": "none", "digest": "none"}
        report["unit"] = UNIT
        report["metrics"] = {
            "withheld": {
                "mission": withheld,
                "baseline": None,
                "keys": keys,
                "clusters": [one.cluster for one in texts],
            }
        }
        report["origins"] = [f"{one.family}, {one.role}" for one in texts]
        report["suite_withheld"] = [
            sum(a or b for a, b in zip(suite.intervened[seed], declined[seed], strict=True))
            for seed in range(len(self.guards))
        ]
        report["declined_by_the_basis"] = {
            "suite": [int(sum(row)) for row in declined],
            "foreign": [int(sum(row)) for row in declined_requests],
        }
        return report

    def _declined_requests(self, requests: Sequence[BenignText]) -> list[list[bool]]:
        """Return which harmless requests each adapter declines and the base model does not.

        Only requests above a value head's threshold are generated: below it the reply is that of
        the base model.
        """
        if not requests:
            return [[] for _ in self.trained]
        margins = risk_margins(self.backbone, self.trained, requests, self.cache)
        above = [margin > 0 for margin in margins]
        active = [one for index, one in enumerate(requests) if any(row[index] for row in above)]
        if not active:
            return [[False] * len(requests) for _ in self.trained]
        replies = paired_replies(
            self.backbone,
            self.trained,
            active,
            tokens=ANSWER_TOKENS,
            strength=self.strength,
            cache=self.cache,
            folder=self.folder,
        )
        declined = _declined(replies.baseline, replies.with_safety)
        names = [one.key for one in active]
        by_key = [dict(zip(names, row, strict=True)) for row in declined]
        return [[row.get(one.key, False) for one in requests] for row in by_key]

    def _outputs(self, exchanges: Exchanges) -> dict[str, Texts]:
        """Return the texts of the compared sides, ``[seeds][prompts]``."""
        baseline = [exchanges.baseline] * len(self.trained)
        return {"mission": exchanges.arms["both"], "baseline": baseline}

    def _kept(self, texts: Sequence[BenignText]) -> list[BenignText]:
        """Return the texts that are measured."""
        return [one for one in texts if self.items is None or _item_key(one) in self.items]

    def _report(self, name: str, digest: str, data: str) -> Report:
        versions = [one.artifact.version for one in self.trained]
        versions += [guard.policy.version for guard in self.guards]
        card = self.trained[0].artifact.card
        return {
            "id": name,
            "mission": {
                "name": f"basis at strength {self.strength:g} and sidecar",
                "digest": _digest(versions),
            },
            "baseline": {"name": "the fleet without C", "digest": card.base_digest},
            "data": {"name": data, "digest": digest},
            "seeds": [one.artifact.card.seed for one in self.trained],
            "command": self.command,
        }


def _declined(baseline: Sequence[str], runs: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Return where a reply declines and the base model's does not, ``[seeds][prompts]``."""
    judge = get_harm_judge("prefix")
    before = [judge.declines(reply) for reply in baseline]
    return [[judge.declines(r) and not b for r, b in zip(run, before, strict=True)] for run in runs]


def _item_key(text: BenignText) -> str:
    """Return the key of a stranger's text in the report: one text may stand for both sides."""
    return f"{text.role}/{text.key}"


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
