"""Safety policy: validation, and verdicts on scores."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.guard.findings import Finding, Span
from bem_fleet.guard.policy import (
    DEFAULT_POLICY,
    Action,
    PolicyError,
    Rule,
    Violation,
    aggregate,
    load_policy,
)
from hypothesis import given
from hypothesis import strategies as st

SHIPPED = DEFAULT_POLICY


def written(folder: Path, change: Any = None) -> Path:
    """Write the shipped policy, changed."""
    rows = yaml.safe_load(SHIPPED.read_text())
    if change:
        change(rows)
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(rows))
    return path


def test_shipped_policy_has_the_five_constraints() -> None:
    """Each constraint has rules and a rationale."""
    found = load_policy(SHIPPED)

    assert set(found.rationales) == {
        *("truthfulness", "harmlessness", "helpfulness", "privacy", "fairness")
    }
    assert {rule.constraint for rule in found.rules} == set(found.rationales)
    assert all(len(reason) > 40 for reason in found.rationales.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["constraints"][0]["rules"][0].pop("threshold"), "threshold"),
        (lambda r: r["constraints"][0]["rules"][0].update(threshold=1.5), "1.5"),
        (lambda r: r["constraints"][0]["rules"][0].update(action="explode"), "explode"),
        (lambda r: r["constraints"][0]["rules"][0].update(scorer="vibes"), "vibes"),
        (lambda r: r["constraints"][1]["rules"][0].update(action="redact"), "toxicity"),
        (lambda r: r["constraints"].append(r["constraints"][0]), "duplicate"),
        (lambda r: r.update(extra=1), "extra"),
    ],
)
def test_invalid_policy_is_rejected_with_its_location(
    tmp_path: Path, change: Any, named: str
) -> None:
    """The error names the invalid field or value."""
    with pytest.raises(PolicyError, match=named):
        load_policy(written(tmp_path, change))


@pytest.mark.parametrize("text", ["constraints: [", "- 1", "", "\x00", "version: 1"])
def test_other_documents_are_rejected(tmp_path: Path, text: str) -> None:
    """Broken YAML and other documents raise PolicyError with the file name."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"c\.yaml"):
        load_policy(path)


def test_verdict_has_the_strictest_action() -> None:
    """Spans are redacted only if the rule of their scorer is violated."""
    found = load_policy(SHIPPED)
    span = Span(0, 3, "EMAIL_ADDRESS", 0.99, "pii")
    cut = found.evaluate("response", Finding({"pii": 0.99, "toxicity": 0.0}, (span,)))
    filtered = found.evaluate("response", Finding({"pii": 0.99, "toxicity": 1.0}, (span,)))
    calm = found.evaluate("response", Finding({"pii": 0.0, "toxicity": 0.0}))

    assert (cut.action, cut.spans, cut.allowed) == (Action.REDACT, (span,), True)
    assert (filtered.action, filtered.allowed) == (Action.FILTER, False)
    assert (calm.action, calm.overall, calm.worst_violation) == (Action.ALLOW, 0.0, None)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=6),
)
def test_overall_score_is_bounded_and_monotone(pairs: list[tuple[float, float]]) -> None:
    """It is at least the worst violation's, at most 1, and never falls with one more."""
    violations = [
        Violation(Rule("harmlessness", "harm", "request", 0.0, severity, Action.BLOCK), score)
        for score, severity in pairs
    ]
    overall = aggregate(violations)

    assert 0 <= overall <= 1
    assert overall >= max(v.rule.severity * v.score for v in violations) - 1e-9
    assert overall >= aggregate(violations[1:]) - 1e-9
