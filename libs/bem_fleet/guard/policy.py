"""Safety policy: thresholds and actions by scorer, read from a YAML file with a schema."""

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
# Share of words in languages that the scorers were not calibrated for, on both sides.
LANGUAGE = "language"
REQUEST_SCORERS = ("harm", "misinformation", "privacy", "bias", "injection", "jailbreak", LANGUAGE)
# The fast tier settles this scorer where words rule abuse out, and leaves it to the deep tier else.
ABUSE = "abuse"
RESPONSE_SCORERS = (
    "toxicity",
    ABUSE,
    "pii",
    "secrets",
    "grounding",
    "helpfulness",
    "counterfactual",
    LANGUAGE,
)
# Only these scorers report spans, so only their rules can redact.
SPAN_SCORERS = ("pii", "secrets")
# Scorers by tier: those fast enough for every piece of a stream, and the others.
FAST_SCORERS = frozenset(("toxicity", "counterfactual", "grounding", "helpfulness", LANGUAGE))
DEEP_SCORERS = frozenset((*REQUEST_SCORERS, *SPAN_SCORERS, ABUSE)) - FAST_SCORERS
_MAX_FILE_BYTES = 256 * 1024


class PolicyError(Exception):
    """The safety policy file is invalid; the message names the place in the file."""


class Action(IntEnum):
    """Action on a text, ordered from the mildest to the strictest."""

    ALLOW = 1
    REDACT = 2
    FILTER = 3
    BLOCK = 4


@dataclass(frozen=True)
class Rule:
    """Threshold of one scorer on one side.

    Attributes:
        constraint: Constraint that the rule belongs to.
        scorer: Name of the scorer.
        side: ``request`` or ``response``.
        threshold: Lowest score that violates the rule, 0 to 1.
        severity: Weight of a violation in the overall score, in (0, 1].
        action: Action on a violation.
    """

    constraint: str
    scorer: str
    side: str
    threshold: float
    severity: float
    action: Action


@dataclass(frozen=True)
class Violation:
    """Rule that a text violates.

    Attributes:
        rule: The rule.
        score: Score that reached the rule's threshold, 0 to 1.
    """

    rule: Rule
    score: float


@dataclass(frozen=True)
class SafetyVerdict:
    """Decision of the policy on one text.

    Attributes:
        action: Strictest action of all violations; ALLOW without a violation.
        violations: All violated rules.
        overall: Overall violation score of ``aggregate``, 0 to 1.
        spans: Spans to redact if the action is REDACT; offsets in the original text.
        scores: Score by scorer, 0 to 1.
        version: Version of the policy.
    """

    action: Action
    violations: tuple[Violation, ...]
    overall: float
    spans: tuple[Span, ...]
    scores: Mapping[str, float]
    version: str

    @property
    def allowed(self) -> bool:
        """Whether the text may pass, redacted or unchanged."""
        return self.action <= Action.REDACT

    @property
    def worst_violation(self) -> Violation | None:
        """Violation with the strictest action; among equals, the one with the highest weight."""
        return max(
            self.violations, key=lambda v: (v.rule.action, v.rule.severity * v.score), default=None
        )


def aggregate(violations: Sequence[Violation]) -> float:
    """Return the overall violation score, 0 to 1.

    The noisy-or ``1 - prod(1 - severity * score)`` is 0 without a violation, never above 1, at
    least as high as the worst violation, and never falls when a violation is added. Example:
    severities 0.8 and 0.5 at scores 1.0 and 0.6 give ``1 - 0.2 * 0.7 = 0.86``.
    """
    return 1 - math.prod(1 - v.rule.severity * v.score for v in violations)


@dataclass(frozen=True)
class SafetyPolicy:
    """Validated safety policy.

    Attributes:
        version: Version stated in the file, and the first 12 digits of the file's SHA-256.
        rules: Rules in the order of the file.
        rationales: Rationale by constraint.
    """

    version: str
    rules: tuple[Rule, ...]
    rationales: Mapping[str, str]

    @cached_property
    def required_scorers(self) -> Mapping[str, frozenset[str]]:
        """Scorers that the rules need, by side (``request`` and ``response``)."""
        return {
            side: frozenset(rule.scorer for rule in self.rules if rule.side == side)
            for side in ("request", "response")
        }

    def evaluate(self, side: str, finding: Finding) -> SafetyVerdict:
        """Return the verdict on a text.

        Args:
            side: ``request`` or ``response``.
            finding: Scores and spans; a scorer that did not run violates no rule.
        """
        violations = tuple(
            Violation(rule, finding.scores[rule.scorer])
            for rule in self.rules
            if rule.side == side and finding.scores.get(rule.scorer, -1.0) >= rule.threshold
        )
        # A span is redacted only if the rule of its own scorer is violated, and only if the span
        # itself reaches that rule's threshold.
        redact_from = {
            v.rule.scorer: v.rule.threshold for v in violations if v.rule.action == Action.REDACT
        }
        return SafetyVerdict(
            max((v.rule.action for v in violations), default=Action.ALLOW),
            violations,
            aggregate(violations),
            tuple(s for s in finding.spans if s.score >= redact_from.get(s.scorer, math.inf)),
            finding.scores,
            self.version,
        )


def load_policy(path: Path) -> SafetyPolicy:
    """Read and validate a safety policy file.

    Raises:
        PolicyError: The file cannot be read, is not YAML, violates the schema, names an unknown
            scorer, or redacts by a scorer that reports no spans.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_FILE_BYTES:
            raise PolicyError(
                f"{path.name}: file has {len(raw)} bytes; the limit is {_MAX_FILE_BYTES}"
            )
        document = yaml.safe_load(raw)
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as err:
        raise PolicyError(f"{path.name}: {err}") from err
    except jsonschema.ValidationError as err:
        raise PolicyError(f"{path.name}: {err.json_path}: {err.message}") from err
    constraints = document["constraints"]
    rules = tuple(
        _parse_rule(path.name, constraint["name"], fields)
        for constraint in constraints
        for fields in constraint["rules"]
    )
    names = [constraint["name"] for constraint in constraints]
    if len(set(names)) < len(names):
        raise PolicyError(f"{path.name}: constraints: duplicate name in {names}; use each once")
    return SafetyPolicy(
        f"{document['version']}+{hashlib.sha256(raw).hexdigest()[:12]}",
        rules,
        {constraint["name"]: constraint["rationale"] for constraint in constraints},
    )


def _parse_rule(file: str, constraint: str, fields: Mapping[str, str | float]) -> Rule:
    scorer, side = str(fields["scorer"]), str(fields["side"])
    action = Action[str(fields["action"]).upper()]
    known = REQUEST_SCORERS if side == "request" else RESPONSE_SCORERS
    if scorer not in known:
        raise PolicyError(
            f"{file}: {constraint}: unknown {side} scorer {scorer!r}; use one of {', '.join(known)}"
        )
    if action == Action.REDACT and scorer not in SPAN_SCORERS:
        raise PolicyError(
            f"{file}: {constraint}: {scorer} reports no spans to redact; "
            f"use one of {', '.join(SPAN_SCORERS)}"
        )
    threshold, severity = float(fields["threshold"]), float(fields["severity"])
    return Rule(constraint, scorer, side, threshold, severity, action)
