"""Dashboards, alerts and scaling ask for metrics that the code exports, and for nothing else."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.charts.rendering import CHART, ROOT, VALUE_SETS, objects, render
from tools import dashboards

_DEFINED = re.compile(r"(Counter|Gauge|Histogram)\(\s*\"(bem_[a-z0-9_]+)\"")
_ASKED = re.compile(r"\bbem_[a-z0-9_]+")
_PARTS = {"Histogram": ("_bucket", "_sum", "_count"), "Counter": ("",), "Gauge": ("",)}


def exported() -> set[str]:
    """Return the names of the series that the code exports."""
    found = set()
    for folder in ("services", "libs/fleet"):
        for path in (ROOT / folder).rglob("*.py"):
            for kind, name in _DEFINED.findall(path.read_text()):
                found |= {name + part for part in _PARTS[kind]}
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


def test_panels_ask_for_what_is_exported() -> None:
    """Each panel's query names metrics of the code, and every metric of the code has a panel."""
    asked = set()
    for path in (CHART / "dashboards").glob("*.json"):
        for expression in expressions(json.loads(path.read_text())):
            names = set(_ASKED.findall(expression))
            assert names <= exported(), expression
            asked |= names
    shown = {re.sub("_bucket$", "", name) for name in asked}
    defined = {re.sub("_(bucket|sum|count)$", "", name) for name in exported()}

    assert shown == defined


def test_alerts_ask_for_what_is_exported() -> None:
    """Each alert names metrics of the code and says what to do."""
    rules = yaml.safe_load((CHART / "rules" / "fleet.yaml").read_text())["groups"][0]["rules"]

    for rule in rules:
        names = set(_ASKED.findall(rule["expr"]))
        assert names
        assert names <= exported(), rule["alert"]
        assert {"summary", "description"} <= set(rule["annotations"])


def test_scaling_follows_a_metric_that_is_exported() -> None:
    """The queue's gauge of both autoscalers is one that the router exports."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert values["defaults"]["autoscaling"]["metric"] in exported()


def test_dashboards_are_what_their_source_says() -> None:
    """The committed dashboards are the generated ones (`make dashboards`)."""
    for name, (title, graphs) in dashboards.BOARDS.items():
        written = json.loads((dashboards.FOLDER / name).read_text())
        assert written == json.loads(dashboards.build(title, graphs)), name


def test_config_maps_carry_the_dashboards() -> None:
    """With the flag on, each dashboard is a ConfigMap that Grafana's sidecar finds."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    maps = [
        each
        for each in objects(render(values))
        if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
    ]
    carried = {name: json.loads(text) for each in maps for name, text in each["data"].items()}

    assert set(carried) == set(dashboards.BOARDS)
    assert all(board["panels"] for board in carried.values())
