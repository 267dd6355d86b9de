"""Tests of the metrics of plans."""

from bem_fleet.services.router import plan_metrics
from prometheus_client import REGISTRY


def test_counts_are_exported_by_source_and_decision() -> None:
    """Labels tell sources of plans and decisions about updates apart."""
    before = REGISTRY.get_sample_value("bem_router_plans_total", {"source": "client"}) or 0

    plan_metrics.PLANS.labels("client").inc()
    plan_metrics.POLICY_VERSION.set(3)

    assert REGISTRY.get_sample_value("bem_router_plans_total", {"source": "client"}) == before + 1
    assert REGISTRY.get_sample_value("bem_router_policy_version") == 3
