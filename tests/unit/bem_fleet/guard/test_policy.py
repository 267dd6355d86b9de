"""The policy: what is accepted, and what it makes of scores."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bem_fleet.guard.findings import Finding, Span
from bem_fleet.guard.policy import (
    Action,
    PolicyError,
    Rule,
    Violation,
    aggregate,
    load,
)
from bem_fleet.services.safety.policy_file import PolicyFile
from bem_fleet.services.safety.settings import SafetySettings
from hypothesis import given
from hypothesis import strategies as st

SHIPPED = SafetySettings().policy


def written(folder: Path, change: Any = None) -> Path:
    """Write the shipped policy, changed."""
    rows = yaml.safe_load(SHIPPED.read_text())
    if change:
        change(rows)
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(rows))
    return path


def test_shipped_policy_has_the_five_constraints() -> None:
    """Each has rules with a reason, and every rule a scorer, a threshold, a severity, an action."""
    found = load(SHIPPED)

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
        (lambda r: r["constraints"].append(r["constraints"][0]), "twice"),
        (lambda r: r.update(extra=1), "extra"),
    ],
)
def test_bad_policy_is_refused_with_the_place(tmp_path: Path, change: Any, named: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(PolicyError, match=named):
        load(written(tmp_path, change))


@pytest.mark.parametrize("text", ["constraints: [", "- 1", "", "\x00", "version: 1"])
def test_what_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    """Broken YAML and other documents are one kind of error."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"c\.yaml"):
        load(path)


def test_changed_file_counts_and_bad_file_changes_nothing(tmp_path: Path) -> None:
    """A bad file keeps the old rules in force and says why; a good one ends that."""
    path = written(tmp_path)
    file = PolicyFile(path)
    first = file.current
    path.write_text("constraints: 7")
    assert not file.refresh()
    assert file.current is first
    assert "constraints" in file.problem or "version" in file.problem
    written(tmp_path, lambda rows: rows.update(version="2"))
    assert file.refresh()
    assert file.problem == ""
    assert file.current.version.startswith("2+")
    path.unlink()
    assert not file.refresh()
    assert file.current.version.startswith("2+")


def test_the_strictest_action_of_all_violations_is_taken() -> None:
    """Spans are cut only where the rule that points at them is broken."""
    found = load(SHIPPED)
    span = Span(0, 3, "EMAIL_ADDRESS", 0.99, "pii")
    cut = found.judge("response", Finding({"pii": 0.99, "toxicity": 0.0}, (span,)))
    filtered = found.judge("response", Finding({"pii": 0.99, "toxicity": 1.0}, (span,)))
    calm = found.judge("response", Finding({"pii": 0.0, "toxicity": 0.0}))

    assert (cut.action, cut.spans, cut.allowed) == (Action.REDACT, (span,), True)
    assert (filtered.action, filtered.allowed) == (Action.FILTER, False)
    assert (calm.action, calm.overall, calm.worst) == (Action.ALLOW, 0.0, None)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=6),
)
def test_overall_score_is_bounded_and_never_sinks(pairs: list[tuple[float, float]]) -> None:
    """At least the worst violation's, at most 1, and no lower with one violation more."""
    violations = [
        Violation(Rule("harmlessness", "harm", "request", 0.0, severity, Action.BLOCK), score)
        for score, severity in pairs
    ]
    overall = aggregate(violations)

    assert 0 <= overall <= 1
    assert overall >= max(v.rule.severity * v.score for v in violations) - 1e-9
    assert overall >= aggregate(violations[1:]) - 1e-9
