"""Dashboards, alerts and autoscalers query metrics that the code exports, and no others."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from bem_fleet.descriptors import load_descriptors

from tests.charts.rendering import CHART, ROOT, VALUE_SETS, objects, render
from tools import chart_values, dashboards
from tools.docs_tables import declared_metrics

_QUERIED = re.compile(r"\bbem_[a-z0-9_]+")
_SERIES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def exported() -> set[str]:
    """Return the names of the series that the code exports."""
    found = set()
    for folder in ("services", "libs/fleet"):
        for name, kind, _ in declared_metrics(ROOT / folder):
            found |= {name + part for part in _SERIES[kind]}
    return found


def expressions(node: Any) -> Iterator[str]:
    """Yield every PromQL expression below a node."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr" and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def test_panels_query_exported_metrics() -> None:
    """Each panel's query names metrics of the code, and every metric of the code has a panel."""
    queried = set()
    for path in (CHART / "dashboards").glob("*.json"):
        for expression in expressions(json.loads(path.read_text())):
            names = set(_QUERIED.findall(expression))
            assert names <= exported(), expression
            queried |= names
    shown = {re.sub("_bucket$", "", name) for name in queried}
    defined = {re.sub("_(bucket|sum|count)$", "", name) for name in exported()}

    assert shown == defined


def test_alerts_query_exported_metrics() -> None:
    """Each alert queries metrics of the code and says what to do."""
    rules = yaml.safe_load((CHART / "rules" / "fleet.yaml").read_text())["groups"][0]["rules"]

    for rule in rules:
        names = set(_QUERIED.findall(rule["expr"]))
        assert names
        assert names <= exported(), rule["alert"]
        assert {"summary", "description"} <= set(rule["annotations"])


def test_autoscaler_follows_an_exported_metric() -> None:
    """Every mission exports the queue length that its autoscaler follows by default."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    missions = [one.name for one in load_descriptors() if one.kind == "mission"]
    for name in missions:
        rendered = render(values, f"services.{name}.autoscaling.enabled=true")
        assert f"bem_{name}_requests_waiting" in rendered
        assert f"bem_{name}_requests_waiting" in exported()


def test_generated_files_are_up_to_date() -> None:
    """Dashboards, values and rules are what the descriptors give."""
    for file, text in {**dashboards.generated(), **chart_values.generated()}.items():
        assert file.read_text() == text, f"{file.name}: run `make generate`"


def test_config_maps_carry_the_dashboards() -> None:
    """With the flag set, each dashboard is a ConfigMap that Grafana's sidecar finds."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    maps = [
        each
        for each in objects(render(values))
        if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
    ]
    carried = {name: json.loads(text) for each in maps for name, text in each["data"].items()}

    assert set(carried) == {file.name for file in dashboards.generated()}
    assert all(board["panels"] for board in carried.values())
