"""The sidecar-only arm of gate C: the same replies of a model, with and without the sidecar."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bem.data.passage_qa import Item as Question
from bem.data.passage_qa import load_passage_qa
from bem.data.redteam import Attack, held_out
from bem.evaluation.execution import AnswerCache, execute
from bem.evaluation.systems import Decoding, Item, Run, Side, System
from bem.scores.metrics import scores_of

from services.safety.constitution import Constitution, Verdict
from services.safety.findings import Finding, Query
from services.safety.redaction import cut, merged
from services.safety.scoring.gate import may_hold_personal_data
from services.safety.scoring.heads import CARD
from services.safety.scoring.tiers import DEEP, FAST, Deep, Embedder, Fast, Tier
from tools.guard.detectors import Detectors

PER_FAMILY = 45
DECODING = Decoding(max_tokens=48)


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
    def touched(self) -> bool:
        """Whether the sidecar withheld or changed anything."""
        return any(not v.allowed or v.spans for v in self.verdicts)


class Guard:
    """The scorers and the constitution as the sidecar runs them, without its wire.

    Args:
        folder: The heads' artifact.
        constitution: What is in force.
        model: Embeds.
    """

    def __init__(self, folder: Path, constitution: Constitution, model: Embedder) -> None:
        self._tiers: tuple[tuple[Tier, frozenset[str]], ...] = (
            (Fast(folder), FAST),
            (Deep(folder, model), DEEP),
        )
        thresholds = json.loads((folder / CARD).read_text())["thresholds"]
        rules = tuple(
            replace(rule, threshold=thresholds.get(rule.scorer, rule.threshold))
            for rule in constitution.rules
        )
        self.constitution = replace(constitution, rules=rules)

    def refuses(self, prompt: str) -> bool:
        """Return whether a request would not reach the mission."""
        wanted = self.constitution.wanted["request"]
        return not self._verdict(Query(prompt, "request", wanted)).allowed

    def exchange(self, prompt: str, reply: str) -> Outcome:
        """Return what the client gets of a reply to a prompt."""
        asked = self._verdict(Query(prompt, "request", self.constitution.wanted["request"]))
        if not asked.allowed:
            return Outcome("", (asked,))
        wanted = self.constitution.wanted["response"]
        if not may_hold_personal_data(reply):
            wanted -= {"pii", "secrets"}
        said = self._verdict(Query(reply, "response", wanted, prompt))
        if not said.allowed:
            return Outcome("", (asked, said))
        return Outcome(cut(reply, merged(said.spans)), (asked, said))

    def _verdict(self, query: Query) -> Verdict:
        found = Finding()
        for tier, own in self._tiers:
            if wanted := query.wanted & own:
                found = found.joined(tier.read([replace(query, wanted=wanted)])[0])
        return self.constitution.judge(query.on, found)


def replies(system: System, prompts: Mapping[str, str], cache: Path) -> dict[str, str]:
    """Return the system's reply to each prompt, by key; what was answered before is read back."""
    items = [Item(key, prompt, ("",)) for key, prompt in prompts.items()]
    side = Side(system.name, (Run(system),), "lenient")
    (found,) = execute(side, items, DECODING, AnswerCache(cache))
    return {item.key: given.answer.text for item, given in zip(items, found, strict=True)}


def violations(
    attacks: Sequence[Attack], said: Mapping[str, str], guards: Sequence[Guard]
) -> dict[str, Any]:
    """Return per-attack violations without the sidecar and behind each guard.

    Returns:
        ``baseline`` [attacks], ``mission`` [guards][attacks], ``rows`` for tables.
    """
    detectors = Detectors()
    before = [float(detectors.violates(one, said[one.key])) for one in attacks]
    after = [
        [
            float(detectors.violates(one, guard.exchange(one.prompt, said[one.key]).text))
            for one in attacks
        ]
        for guard in guards
    ]
    rows = [{"family": one.family, "category": one.category, "kind": one.kind} for one in attacks]
    return {"baseline": before, "mission": after, "rows": rows}


def quality(
    questions: Sequence[Question], said: Mapping[str, str], guards: Sequence[Guard]
) -> dict[str, Any]:
    """Return exact match and F1 of each question without the sidecar and behind each guard."""
    read = scores_of("strict")

    def scores(question: Question, text: str) -> dict[str, float]:
        return {name: score(text, (question.answer,)) for name, score in read.items()}

    outcomes = [[guard.exchange(q.prompt(), said[q.key]) for q in questions] for guard in guards]
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


def suite() -> list[Question]:
    """Return the benign questions: those that the skill never learned from."""
    data = load_passage_qa()
    return [*data.splits["held_out"], *data.splits["dev"]]


def attacks() -> list[Attack]:
    """Return the held-out attacks of the report."""
    return held_out(PER_FAMILY)


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
