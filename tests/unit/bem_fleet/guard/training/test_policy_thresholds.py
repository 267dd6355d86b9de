"""Thresholds of the heads' card in the safety policy."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bem_fleet.checkout import ROOT
from bem_fleet.guard.policy import DEFAULT_POLICY, PolicyError, load_policy
from bem_fleet.guard.training.policy_thresholds import write_thresholds


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Return a copy of the default policy."""
    return Path(shutil.copy(DEFAULT_POLICY, tmp_path / "policy.yaml"))


def test_only_the_numbers_of_named_scorers_change(policy: Path) -> None:
    """Comments, rationales, order and the rules of other scorers stay."""
    before, text = load_policy(policy), policy.read_text()
    write_thresholds(policy, {"abuse": 0.9123, "harm": 0.9999})
    after = load_policy(policy)
    new = {"abuse": 0.9123, "harm": 0.9999}
    changed = [
        (a, b)
        for a, b in zip(text.splitlines(), policy.read_text().splitlines(), strict=True)
        if a != b
    ]

    assert after.rules == tuple(
        replace(rule, threshold=new.get(rule.scorer, rule.threshold)) for rule in before.rules
    )
    assert len(changed) == 2
    assert all("threshold: " in a and "threshold: " in b for a, b in changed)


def test_same_thresholds_leave_the_file_as_it_is(policy: Path) -> None:
    """The served policy has the thresholds of the served card."""
    thresholds = json.loads((ROOT / "adapters/guard/heads.json").read_text())["thresholds"]
    write_thresholds(policy, thresholds)

    assert policy.read_bytes() == DEFAULT_POLICY.read_bytes()


def test_scorer_without_a_rule_is_refused(policy: Path) -> None:
    """Nothing is written: the policy would serve an old threshold."""
    with pytest.raises(PolicyError, match=r"policy.yaml: has no rule line of spam"):
        write_thresholds(policy, {"abuse": 0.9, "spam": 0.5})

    assert policy.read_bytes() == DEFAULT_POLICY.read_bytes()
