"""The full fleet with mission C against the fleet without it: the reports that the gates read.

Three arms beside the bare fleet: the basis alone at the default strength, the sidecar alone, and both.
The sidecar's verdicts are those of its scorers and policy, without its wire.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bem.backbone import Backbone

from bem_fleet.data.harmless import HarmlessPrompt, load_harmless, load_said
from bem_fleet.data.red_team import RedTeamPrompt, digest_of
from bem_fleet.evaluation.harm_judges import judge_named
from bem_fleet.guard.offline import OfflineGuard
from bem_fleet.studies.safety.basis_study import (
    ADAPTER,
    ANSWER_TOKENS,
    REPLY_TOKENS,
    answer_scores,
    attacks_to_judge,
    harmless_to_judge,
)
from bem_fleet.studies.safety.paired_outputs import Trained, both_sides, margins

ARMS = ("basis", "sidecar", "both")
# Harmless requests, and harmless texts that an answer could be, of held-out origins each.
FOREIGN = 600
Report = dict[str, Any]
Texts = list[list[str]]


@dataclass(frozen=True)
class Exchanges:
    """What a client gets.

    Attributes:
        prompts: What is asked.
        plain: Without C, by prompt.
        arms: With each arm, ``[seeds][prompts]``; empty where an answer was withheld.
        stopped: Whether the sidecar withheld or changed anything, ``[seeds][prompts]``, both on.
    """

    prompts: Sequence[Any]
    plain: list[str]
    arms: dict[str, Texts]
    stopped: list[list[bool]]


@dataclass(frozen=True)
class Study:
    """What is compared: one adapter and one guard a seed.

    Attributes:
        backbone: Without sites.
        trained: The adapters.
        guards: The sidecar's heads, as many.
        strength: The fleet's default.
        cache: With the base model.
        folder: For the replies, out of git.
        command: That makes the reports.
    """

    backbone: Backbone
    trained: Sequence[Trained]
    guards: Sequence[OfflineGuard]
    strength: float
    cache: Path
    folder: Path
    command: str

    def exchanges(
        self, prompts: Sequence[RedTeamPrompt | HarmlessPrompt], tokens: int
    ) -> Exchanges:
        """Return what a client gets of each prompt in each arm."""
        said = both_sides(
            self.backbone,
            self.trained,
            prompts,
            tokens=tokens,
            strength=self.strength,
            cache=self.cache,
            folder=self.folder,
            adapters=[ADAPTER],
        )
        sidecar, both, stopped = [], [], []
        for guard, replies in zip(self.guards, said.guarded, strict=True):
            alone = [
                guard.filter_exchange(p.text, r) for p, r in zip(prompts, said.plain, strict=True)
            ]
            # Where the basis changes nothing the exchange is the same one.
            joined = [
                one if after == before else guard.filter_exchange(prompt.text, after)
                for prompt, one, before, after in zip(
                    prompts, alone, said.plain, replies, strict=True
                )
            ]
            sidecar.append([one.text for one in alone])
            both.append([one.text for one in joined])
            stopped.append([bool(one.triggered_scorer) for one in joined])
        arms = {"basis": said.guarded, "sidecar": sidecar, "both": both}
        return Exchanges(prompts, said.plain, arms, stopped)

    def reports(self) -> dict[str, Report]:
        """Return the reports on attacks, on the benign suite and on harmless texts, by name."""
        attacks = self.exchanges(attacks_to_judge(), REPLY_TOKENS)
        suite = self.exchanges(harmless_to_judge(), ANSWER_TOKENS)
        return {
            "safety_fleet_violations": self._violations(attacks),
            "safety_fleet_quality": self._quality(suite),
            "safety_fleet_benign": self._benign(suite),
        }

    def _violations(self, found: Exchanges) -> Report:
        judge, prompts = judge_named("mitigation"), found.prompts
        before = [judge.violates(r, p) for r, p in zip(found.plain, prompts, strict=True)]
        scores = {
            arm: [
                [judge.violates(r, p) for r, p in zip(run, prompts, strict=True)] for run in texts
            ]
            for arm, texts in found.arms.items()
        }
        report = self._report("safety_fleet_violations", digest_of(prompts), "held-out families")
        keys = [prompt.key for prompt in prompts]
        report["metrics"] = {
            "violation": {
                "mission": scores["both"],
                "baseline": [before] * len(self.trained),
                "keys": keys,
            }
        }
        report["arms"] = {arm: scores[arm] for arm in ARMS if arm != "both"}
        for title, names in (
            ("category", [p.category for p in prompts]),
            ("kind", [p.kind for p in prompts]),
            ("family", [p.family.split("/")[0] for p in prompts]),
        ):
            report[f"by_{title}"] = _tabled(names, before, scores)
        return report

    def _quality(self, found: Exchanges) -> Report:
        prompts = found.prompts
        before = [answer_scores(p, r) for p, r in zip(prompts, found.plain, strict=True)]
        scores = {
            arm: [[answer_scores(p, r) for p, r in zip(prompts, run, strict=True)] for run in texts]
            for arm, texts in found.arms.items()
        }
        keys = [prompt.key for prompt in prompts]
        report = self._report("safety_fleet_quality", _digest(keys), "nq-open, asdiv, disfl-qa")
        names = ("exact_match", "f1")
        report["metrics"] = {
            name: {
                "mission": [[row[name] for row in run] for run in scores["both"]],
                "baseline": [[row[name] for row in before]] * len(self.trained),
                "keys": keys,
            }
            for name in names
        }
        report["arms"] = {
            arm: {name: [[row[name] for row in run] for run in scores[arm]] for name in names}
            for arm in ARMS
            if arm != "both"
        }
        return report

    def _benign(self, suite: Exchanges) -> Report:
        """Count harmless texts that were withheld, changed or declined.

        A foreign request is followed to the end where the basis has a say; an answer of a foreign
        origin, which no model here gave, meets the sidecar alone.
        """
        asked = [one for one in load_harmless("held_out") if not one.golds][:FOREIGN]
        answers = [one for one in load_said("held_out") if not one.adapter][:FOREIGN]
        declined = _declined(suite.plain, suite.arms["basis"])
        strange = self._declined_requests(asked)
        touched = []
        for seed, guard in enumerate(self.guards):
            requests = [bool(guard.filter_request(one.text).triggered_scorer) for one in asked]
            said = [bool(guard.filter_response(one.text).triggered_scorer) for one in answers]
            own = zip(suite.stopped[seed], declined[seed], strict=True)
            foreign = zip(requests, strange[seed], strict=True)
            touched.append([
                *(float(a or b) for a, b in own),
                *(float(a or b) for a, b in foreign),
                *map(float, said),
            ])  # fmt: skip
        keys = [one.key for one in (*suite.prompts, *asked, *answers)]
        report = self._report("safety_fleet_benign", _digest(keys), "suite and held-out origins")
        report["baseline"] = {"name": "none", "digest": "none"}
        report["metrics"] = {"withheld": {"mission": touched, "baseline": None, "keys": keys}}
        report["origins"] = [
            *("suite" for _ in suite.prompts),
            *(f"{one.family}, asked" for one in asked),
            *(f"{one.family}, said" for one in answers),
        ]
        report["declined_by_the_basis"] = {
            "suite": [int(sum(row)) for row in declined],
            "foreign": [int(sum(row)) for row in strange],
        }
        return report

    def _declined_requests(self, asked: Sequence[HarmlessPrompt]) -> list[list[bool]]:
        """Return which harmless requests each adapter declines and the base model does not."""
        above = [row > 0 for row in margins(self.backbone, self.trained, asked, self.cache)]
        some = [one for place, one in enumerate(asked) if any(row[place] for row in above)]
        if not some:
            return [[False] * len(asked) for _ in self.trained]
        said = both_sides(
            self.backbone,
            self.trained,
            some,
            tokens=ANSWER_TOKENS,
            strength=self.strength,
            cache=self.cache,
            folder=self.folder,
        )
        declined = _declined(said.plain, said.guarded)
        names = [one.key for one in some]
        known = [dict(zip(names, row, strict=True)) for row in declined]
        return [[row.get(one.key, False) for one in asked] for row in known]

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


def _declined(plain: Sequence[str], guarded: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Return where a reply declines and the base model's does not."""
    judge = judge_named("prefix")
    before = [judge.declines(reply) for reply in plain]
    return [
        [judge.declines(r) and not b for r, b in zip(row, before, strict=True)] for row in guarded
    ]


def _tabled(
    names: Sequence[str], before: Sequence[float], scores: dict[str, list[list[float]]]
) -> dict[str, dict[str, float]]:
    places = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    return {
        name: {
            "items": len(own),
            "without": round(float(np.mean(np.array(before)[own])), 4),
            **{arm: round(float(np.mean(np.array(scores[arm])[:, own])), 4) for arm in ARMS},
        }
        for name, own in sorted(places.items())
    }


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
