"""The policy: which scorer may read how high, and what happens to what reads higher."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import jsonschema
import yaml

from bem_fleet.guard.findings import Finding, Span

SCHEMA = Path(__file__).with_name("policy.schema.json")
DEFAULT_POLICY = Path(__file__).with_name("policy.yaml")
# Scorers by what they read, and whether they point at spans of the text.
REQUEST = ("harm", "misinformation", "privacy", "bias", "injection", "jailbreak")
RESPONSE = ("toxicity", "pii", "secrets", "grounding", "helpfulness", "counterfactual")
POINTING = ("pii", "secrets")
_LARGEST = 256 * 1024


class PolicyError(Exception):
    """A safety policy that cannot be used; says where it is wrong."""


class Action(IntEnum):
    """What happens to a text, from the mildest."""

    ALLOW = 1
    REDACT = 2
    FILTER = 3
    BLOCK = 4


@dataclass(frozen=True)
class Rule:
    """One threshold.

    Attributes:
        constraint: The constraint that it belongs to.
        scorer: Who reads.
        on: ``request`` or ``response``.
        threshold: At or above it the rule is broken, 0 to 1.
        severity: Weight of a violation in the overall score, above 0, at most 1.
        action: What a violation leads to.
    """

    constraint: str
    scorer: str
    on: str
    threshold: float
    severity: float
    action: Action


@dataclass(frozen=True)
class Violation:
    """A rule that a text breaks.

    Attributes:
        rule: Which.
        score: What its scorer read, 0 to 1.
    """

    rule: Rule
    score: float


@dataclass(frozen=True)
class Verdict:
    """What becomes of a text.

    Attributes:
        action: The strictest of its violations' actions.
        violations: The broken rules.
        overall: 0 (nothing) to 1, as ``aggregate`` gives it.
        spans: What is cut out where the action is REDACT; offsets in the text as it came.
        scores: What every scorer read.
        version: Of the policy.
    """

    action: Action
    violations: tuple[Violation, ...]
    overall: float
    spans: tuple[Span, ...]
    scores: Mapping[str, float]
    version: str

    @property
    def allowed(self) -> bool:
        """Whether the text may leave, cut or whole."""
        return self.action <= Action.REDACT

    @property
    def worst(self) -> Violation | None:
        """The violation with the strictest action, the most severe of those."""
        return max(
            self.violations, key=lambda v: (v.rule.action, v.rule.severity * v.score), default=None
        )


def aggregate(violations: Sequence[Violation]) -> float:
    """Return the overall violation score.

    The seed sums up violations by one score without a formula; ours is the noisy-or
    ``1 - prod(1 - severity * score)``: 0 without a violation, never above 1, at least as high as
    the worst, and one more violation never lowers it.
    """
    return 1 - math.prod(1 - v.rule.severity * v.score for v in violations)


@dataclass(frozen=True)
class SafetyPolicy:
    """A file that was read.

    Attributes:
        version: As the file says, and the first digits of its hash.
        rules: In the order of the file.
        rationales: By constraint.
    """

    version: str
    rules: tuple[Rule, ...]
    rationales: Mapping[str, str]

    @cached_property
    def wanted(self) -> Mapping[str, frozenset[str]]:
        """Scorers that have to run, by ``request`` and ``response``."""
        return {
            on: frozenset(rule.scorer for rule in self.rules if rule.on == on)
            for on in ("request", "response")
        }

    def judge(self, on: str, finding: Finding) -> Verdict:
        """Return the verdict on a text.

        Args:
            on: ``request`` or ``response``.
            finding: What the scorers read; a scorer that did not run breaks no rule.
        """
        violations = tuple(
            Violation(rule, finding.scores[rule.scorer])
            for rule in self.rules
            if rule.on == on and finding.scores.get(rule.scorer, -1.0) >= rule.threshold
        )
        cut = {
            v.rule.scorer: v.rule.threshold for v in violations if v.rule.action == Action.REDACT
        }
        return Verdict(
            max((v.rule.action for v in violations), default=Action.ALLOW),
            violations,
            aggregate(violations),
            tuple(s for s in finding.spans if s.score >= cut.get(s.scorer, math.inf)),
            finding.scores,
            self.version,
        )


def load(path: Path) -> SafetyPolicy:
    """Read a safety policy.

    Raises:
        PolicyError: It is not there, no YAML, breaks the schema, names an unknown scorer,
            or asks to redact by a scorer that points at no span; the place is named.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > _LARGEST:
            raise PolicyError(f"{path.name}: {len(raw)} bytes; the limit is {_LARGEST}")
        found = yaml.safe_load(raw)
        jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as err:
        raise PolicyError(f"{path.name}: {err}") from err
    except jsonschema.ValidationError as err:
        raise PolicyError(f"{path.name}: {err.json_path}: {err.message}") from err
    rules = tuple(
        _rule(path.name, constraint["name"], row)
        for constraint in found["constraints"]
        for row in constraint["rules"]
    )
    names = [constraint["name"] for constraint in found["constraints"]]
    if len(set(names)) < len(names):
        raise PolicyError(f"{path.name}: a constraint stands twice in {names}")
    return SafetyPolicy(
        f"{found['version']}+{hashlib.sha256(raw).hexdigest()[:12]}",
        rules,
        {one["name"]: one["rationale"] for one in found["constraints"]},
    )


def _rule(file: str, constraint: str, row: Mapping[str, str | float]) -> Rule:
    scorer, on, action = str(row["scorer"]), str(row["side"]), Action[str(row["action"]).upper()]
    known = REQUEST if on == "request" else RESPONSE
    if scorer not in known:
        raise PolicyError(
            f"{file}: {constraint}: no scorer {scorer!r} on a {on}; known: {', '.join(known)}"
        )
    if action == Action.REDACT and scorer not in POINTING:
        raise PolicyError(
            f"{file}: {constraint}: {scorer} points at no span to redact; "
            f"those that do: {', '.join(POINTING)}"
        )
    return Rule(constraint, scorer, on, float(row["threshold"]), float(row["severity"]), action)
