"""Completeness of the chart: every kind of object that a production chart should have."""

import json
from typing import Any

import pytest
from bem_fleet.descriptors import load_descriptors

from tests.charts.rendering import CHART, VALUE_SETS, objects, render

ON = (
    "monitoring.monitors.enabled=true",
    "monitoring.rules.enabled=true",
    "monitoring.dashboards.enabled=true",
    "routes.enabled=true",
    "tls.mode=off",
    "routes.parentRefs[0].name=edge",
    "services.gateway.replicas=2",
    "services.router.autoscaling.enabled=true",
    "services.validation.autoscaling.enabled=true",
    "services.validation.autoscaling.kind=keda",
)
KINDS = (
    *("PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PodMonitor", "PrometheusRule"),
    *("HorizontalPodAutoscaler", "ScaledObject", "GRPCRoute", "HTTPRoute", "PriorityClass"),
)


def everything() -> list[dict[str, Any]]:
    """Return the objects with every flag set."""
    cpu = next(path for path in VALUE_SETS if path.name.startswith("cpu"))
    return objects(render(cpu, *ON))


@pytest.mark.parametrize("kind", KINDS)
def test_chart_has_every_kind(kind: str) -> None:
    """With every flag set, each kind is rendered."""
    assert [each for each in everything() if each["kind"] == kind]


def test_chart_has_schema_dashboards_tests_and_pod_security() -> None:
    """Schema, dashboards and helm tests; topology spread and seccomp in every Deployment."""
    found = everything()
    pods = [each["spec"]["template"]["spec"] for each in found if each["kind"] == "Deployment"]
    tests = [e for e in found if e["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
    boards = [e for e in found if "grafana_dashboard" in e["metadata"].get("labels", {})]

    assert json.loads((CHART / "values.schema.json").read_text())["additionalProperties"] is False
    assert {each["kind"] for each in tests} == {"Pod", "ConfigMap"}
    assert boards
    assert pods
    for pod in pods:
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["topologySpreadConstraints"]


def test_routes_name_their_services_and_need_a_gateway() -> None:
    """Each route leads to its service's port; without a Gateway the installation is refused."""
    routes = [each for each in everything() if each["kind"].endswith("Route")]
    backends = {
        (each["kind"], *each["spec"]["rules"][0]["backendRefs"][0].values()) for each in routes
    }
    missions = [one for one in load_descriptors() if one.kind == "mission"]

    assert backends == {
        ("HTTPRoute", "bem-fleet-gateway", 8080),
        *(("GRPCRoute", f"bem-fleet-{one.name}", one.port) for one in missions),
    }
    with pytest.raises(ValueError, match=r"routes\.parentRefs"):
        render(VALUE_SETS[0], "routes.enabled=true")
    with pytest.raises(ValueError, match="names rooter, which is not a service"):
        render(VALUE_SETS[0], *ON, "routes.services[0]=rooter")
