"""Tracing in the chart: every service sends its spans to the collector, and may reach it."""

from typing import Any

import pytest

from tests.charts.rendering import CHART, objects, render

VALUES = CHART / "ci" / "shipped-values.yaml"
COLLECTOR = "collector.observe:4317"
pytestmark = pytest.mark.requires("helm")


def _containers(*sets: str) -> dict[str, dict[str, str]]:
    """Return the environment of each container by ``service/container``."""
    found = {}
    for one in objects(render(VALUES, *sets)):
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                env = {pair["name"]: pair.get("value", "") for pair in container["env"]}
                found[f"{one['metadata']['name']}/{container['name']}"] = env
    return found


def _egress(*sets: str) -> dict[str, list[Any]]:
    """Return the egress rules to the collector's port by policy."""
    return {
        one["metadata"]["name"]: [
            rule
            for rule in one["spec"].get("egress", [])
            if {"port": 4317} in rule.get("ports", [])
        ]
        for one in objects(render(VALUES, *sets))
        if one["kind"] == "NetworkPolicy"
    }


def test_every_service_and_sidecar_sends_its_spans() -> None:
    """Endpoint and ratio are set in all containers; without an endpoint in none."""
    traced = _containers(f"tracing.endpoint={COLLECTOR}", "tracing.ratio=0.5")
    silent = _containers()

    assert len(traced) > 10
    for env in traced.values():
        (endpoint,) = [value for name, value in env.items() if name.endswith("_OTLP_ENDPOINT")]
        (ratio,) = [value for name, value in env.items() if name.endswith("_TRACE_RATIO")]
        assert (endpoint, ratio) == (COLLECTOR, "0.5")
    assert not [name for env in silent.values() for name in env if "OTLP" in name]


def test_collector_may_be_reached_where_it_is() -> None:
    """Pods of services reach its port in its namespace; Redis and the witness do not."""
    allowed = _egress(
        f"tracing.endpoint={COLLECTOR}", "networkPolicy.tracingNamespace.team=observe"
    )
    anywhere = _egress(
        "tracing.endpoint=https://otel.example.org:4317",
        r"networkPolicy.tracingNamespace.kubernetes\.io/metadata\.name=null",
    )
    router = allowed["bem-fleet-router"][0]["to"][0]["namespaceSelector"]["matchLabels"]

    assert router["team"] == "observe"
    assert not allowed["bem-fleet-redis"]
    assert not allowed["bem-fleet-witness"]
    assert not any(_egress().values())
    assert "to" not in anywhere["bem-fleet-gateway"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        "tracing.endpoint=collector",
        "tracing.endpoint=https://user:word@collector:4317",
        "tracing.ratio=2",
        "services.router.settings.OTLP_ENDPOINT=x:1",
    ],
)
def test_wrong_value_stops_helm(wrong: str) -> None:
    """The value is named."""
    with pytest.raises(ValueError, match="tracing"):
        render(VALUES, wrong)
