"""Dashboards and alerts against a Prometheus that has scraped all tests before."""

from __future__ import annotations

import re

import pytest

from tests.cluster.client import (
    ask_memory,
    ask_mission,
    chat,
    complete,
    give_feedback,
    send_continuously,
)
from tests.cluster.kubernetes_cli import Release, wait_for
from tests.cluster.prometheus import panel_queries
from tests.support.prometheus import Prometheus

pytestmark = [pytest.mark.stage("monitoring"), pytest.mark.e2e, pytest.mark.timeout(600)]
_ROUNDS = 4
# Series that exist only after a failure or an operator's action, or on GPUs.
_EMPTY_WHEN_HEALTHY = {
    "bem_gpu_memory_bytes",
    "bem_gpu_memory_used_bytes",
    "bem_gpu_metrics_available",
    "bem_gpu_power_watts",
    "bem_gpu_temperature_celsius",
    "bem_gpu_utilization_ratio",
    "bem_access_keys_reloads_total",
    "bem_access_refused_total",
    "bem_fleet_stalled_streams_total",
    "bem_gateway_connections_dropped_total",
    "bem_router_adapter_rejected",
    "bem_router_policy_updates_total",
    "bem_gateway_calls_held",
    "bem_gateway_canary_saved_total",
    "bem_gateway_mission_wanted",
    "bem_gateway_replica_calls_total",
    "bem_gateway_validation_",
    # The shipped missions declare no interfaces.
    "bem_orchestrator_edge_healthy",
    "bem_orchestrator_gpu_requests_unmet",
    "bem_orchestrator_gpus_assigned",
    "bem_orchestrator_pods_displaced_total",
    "bem_orchestrator_writes_failed_total",
    "bem_validation_canary_pairs_skipped_total",
    "bem_validation_claims_total",
    "bem_safety_policy_reloads_total",
    "bem_fleet_certificate_reloads_total",
    "bem_safety_scorer_restarts_total",
    # Online learning begins with a quorum of feedback, and with a bank.
    "bem_feedback_failed_total",
    "bem_feedback_processed_total",
    "bem_feedback_refused_total",
    "bem_online_answers_total",
    "bem_online_decisions_total",
    "bem_online_drift_alarms_total",
    "bem_online_learn_failures_total",
    "bem_online_versions_total",
}


def test_every_panel_has_data(release: Release, prometheus: Prometheus) -> None:
    """Each panel's query is valid, and returns series unless it shows failures only.

    The pod of an undone canary may answer the first requests and end before its second scrape, so
    that a rate has no series: the fleet is used again until every panel has one.
    """
    release.wait_for_rollout()
    for _ in range(_ROUNDS):
        _use(release)
        empty = _empty_panels(release, prometheus)
        if not empty:
            break

    assert not empty, "\n".join(f"{board}: {query}" for board, query in empty)


def _use(release: Release) -> None:
    complete(release, "passage-qa")
    complete(release, "router")
    ask_memory(release)
    for mission in ("online", "sep"):
        ask_mission(release, mission)
    give_feedback(release)
    send_continuously(release, 15, chat(max_tokens=4))


def _empty_panels(release: Release, prometheus: Prometheus) -> list[tuple[str, str]]:
    empty = []
    for board, expression in panel_queries():
        query = expression.replace("$namespace", release.namespace)
        names = set(re.findall(r"bem_[a-z0-9_]+", query))
        if not prometheus.query(query) and not names & _EMPTY_WHEN_HEALTHY:
            empty.append((board, query))
    return empty


def test_alerts_are_evaluated(prometheus: Prometheus) -> None:
    """Every alerting rule evaluates without an error, and none fires for a healthy fleet.

    The canaries of earlier tests were rolled back, of which the alert tells for 15 minutes.
    """
    rules = wait_for(
        lambda: [r for r in prometheus.alerts() if r["health"] != "unknown"], "evaluated"
    )

    assert {rule["health"] for rule in rules} == {"ok"}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing <= {"BemCanaryFailed"}
