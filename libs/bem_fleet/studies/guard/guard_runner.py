"""What the sidecar makes of given requests and replies, for the arms of gate C."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bem_fleet.data.benign_prompts import BenignText
from bem_fleet.data.red_team import RedTeamPrompt
from bem_fleet.evaluation.harm_judges import get_harm_judge
from bem_fleet.guard.findings import Finding, Query
from bem_fleet.guard.policy import SafetyPolicy, Verdict
from bem_fleet.guard.scoring.heads import CARD
from bem_fleet.guard.scoring.prefilter import may_hold_personal_data
from bem_fleet.guard.scoring.tiers import DEEP, FAST, Deep, Embedder, Fast, Tier
from bem_fleet.scores.metrics import score_functions
from bem_fleet.services.safety.redaction import cut, merged


@dataclass(frozen=True)
class Outcome:
    """What a client gets of one exchange behind the sidecar.

    Attributes:
        text: Of the reply; empty where it was withheld.
        verdicts: On the request and on the reply, if there was one.
    """

    text: str
    verdicts: tuple[Verdict, ...]

    @property
    def touched(self) -> str:
        """The scorer for which the sidecar withheld or changed something; empty if it did not."""
        for verdict in self.verdicts:
            if verdict.worst and (not verdict.allowed or verdict.spans):
                return verdict.worst.rule.scorer
        return ""


class Guard:
    """The scorers and the policy as the sidecar runs them, without its wire.

    Args:
        folder: The heads' artifact.
        policy: What is in force.
        model: Embeds.
    """

    def __init__(self, folder: Path, policy: SafetyPolicy, model: Embedder) -> None:
        self._tiers: tuple[tuple[Tier, frozenset[str]], ...] = (
            (Fast(folder), FAST),
            (Deep(folder, model), DEEP),
        )
        thresholds = json.loads((folder / CARD).read_text())["thresholds"]
        rules = tuple(
            replace(rule, threshold=thresholds.get(rule.scorer, rule.threshold))
            for rule in policy.rules
        )
        self.policy = replace(policy, rules=rules)

    def request(self, prompt: str) -> Outcome:
        """Return what becomes of a request; its text is what reaches the mission."""
        asked = self._verdict(Query(prompt, "request", self.policy.wanted["request"]))
        return Outcome(prompt if asked.allowed else "", (asked,))

    def response(self, reply: str, prompt: str = "") -> Outcome:
        """Return what leaves of a reply; ``prompt`` may bring its evidence."""
        wanted = self.policy.wanted["response"]
        if not may_hold_personal_data(reply):
            wanted -= {"pii", "secrets"}
        said = self._verdict(Query(reply, "response", wanted, prompt))
        return Outcome(cut(reply, merged(said.spans)) if said.allowed else "", (said,))

    def exchange(self, prompt: str, reply: str) -> Outcome:
        """Return what the client gets of a reply to a prompt."""
        asked = self.request(prompt)
        if not asked.text:
            return asked
        said = self.response(reply, prompt)
        return Outcome(said.text, (*asked.verdicts, *said.verdicts))

    def _verdict(self, query: Query) -> Verdict:
        found = Finding()
        for tier, own in self._tiers:
            if wanted := query.wanted & own:
                found = found.joined(tier.read([replace(query, wanted=wanted)])[0])
        return self.policy.judge(query.on, found)


def violations(
    attacks: Sequence[RedTeamPrompt], said: Mapping[str, str], guards: Sequence[Guard]
) -> dict[str, Any]:
    """Return per-attack violations without the sidecar and behind each guard.

    Returns:
        ``baseline`` [attacks], ``mission`` and ``touched`` (by which scorer) [guards][attacks],
        ``rows`` for tables.
    """
    judge = get_harm_judge("mitigation")
    before = [judge.violates(said[one.key], one) for one in attacks]
    outcomes = [[guard.exchange(one.text, said[one.key]) for one in attacks] for guard in guards]
    after = [
        [judge.violates(got.text, one) for got, one in zip(run, attacks, strict=True)]
        for run in outcomes
    ]
    rows = [{"family": one.family, "category": one.category, "kind": one.kind} for one in attacks]
    stopped = [[one.touched for one in run] for run in outcomes]
    return {"baseline": before, "mission": after, "rows": rows, "touched": stopped}


def quality(
    questions: Sequence[BenignText], said: Mapping[str, str], guards: Sequence[Guard]
) -> dict[str, Any]:
    """Return exact match and F1 of each question without the sidecar and behind each guard."""

    def scores(question: BenignText, text: str) -> dict[str, float]:
        read = score_functions("strict" if question.adapter else "lenient")
        return {name: score(text, question.golds) for name, score in read.items()}

    outcomes = [[guard.exchange(q.text, said[q.key]) for q in questions] for guard in guards]
    before = [scores(q, said[q.key]) for q in questions]
    after = [
        [scores(q, one.text) for q, one in zip(questions, run, strict=True)] for run in outcomes
    ]
    return {
        "metrics": {
            name: {
                "mission": [[row[name] for row in run] for run in after],
                "baseline": [[row[name] for row in before]] * len(guards),
            }
            for name in ("exact_match", "f1")
        },
        "touched": [[one.touched for one in run] for run in outcomes],
    }


def withheld(
    prompts: Sequence[str], replies: Sequence[str], guards: Sequence[Guard]
) -> list[list[str]]:
    """Return for which scorer each guard touched harmless requests, then harmless replies.

    Returns:
        [guards][requests and replies]; empty where nothing was withheld or changed.
    """
    return [
        [guard.request(one).touched for one in prompts]
        + [guard.response(one).touched for one in replies]
        for guard in guards
    ]


def by_group(found: Mapping[str, Any], name: str) -> Iterator[tuple[str, int, float, float]]:
    """Yield group, attacks, violation rate without and with the sidecar (mean over guards)."""
    groups = [row[name] for row in found["rows"]]
    before, after = np.array(found["baseline"]), np.array(found["mission"]).mean(axis=0)
    for group in sorted(set(groups)):
        here = np.array([one == group for one in groups])
        yield group, int(here.sum()), float(before[here].mean()), float(after[here].mean())


def items_digest(keys: Sequence[str]) -> str:
    """Return the SHA-256 of the keys, hexadecimal."""
    return hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()
