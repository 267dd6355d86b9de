"""Dashboards and alerts, asked of a real Prometheus that has watched all tests before."""

from __future__ import annotations

import re

import pytest

from tests.cluster.kubernetes_cli import TOOL, Release, run, until
from tests.cluster.talking import answer, ask_on, chat, give_feedback
from tests.cluster.watching import Prometheus, panels

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
# Series that exist only once something has gone wrong, or on GPUs.
_SILENT = {
    "bem_gateway_canary_saved_total",
    "bem_gateway_validation_",
    "bem_orchestrator_gpu_requests_unmet",
    "bem_orchestrator_gpus_assigned",
    "bem_orchestrator_pods_displaced_total",
    "bem_orchestrator_writes_failed_total",
    "bem_validation_claims_total",
    "bem_safety_policy_reloads_total",
    "bem_safety_scorer_restarts_total",
}


def test_every_panel_has_data(release: Release, watched: Prometheus) -> None:
    """Each panel's query is valid, and returns series unless it waits for something bad."""
    answer(release, "passage-qa")
    give_feedback(release)
    ask_on(release, 15, chat(max_tokens=4))
    empty = []
    for board, expression in panels():
        asked = expression.replace("$namespace", release.namespace)
        names = set(re.findall(r"bem_[a-z0-9_]+", asked))
        if not watched.query(asked) and not names & _SILENT:
            empty.append((board, asked))

    assert empty == []


def test_alerts_are_evaluated(watched: Prometheus) -> None:
    """Each alert's rule is evaluated without an error, and none fires about a healthy fleet."""
    rules = until(lambda: [r for r in watched.alerts() if r["health"] != "unknown"], "evaluated")

    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_alerts_fire_when_they_should() -> None:
    """Prometheus' own rule tests: series that are bad enough for long enough set each off."""
    promtool = f"{run(TOOL, 'prometheus').strip()}/promtool"
    said = run(promtool, "test", "rules", "tests/cluster/alert_tests.yaml")

    assert "SUCCESS" in said
