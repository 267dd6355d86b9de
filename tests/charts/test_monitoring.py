"""Dashboards, alerts and autoscalers query metrics that the code exports, and no others."""

import json
import math
import operator
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from bem_fleet.cli.local.monitoring import prometheus_configuration
from bem_fleet.cli.local.plan import Plan
from bem_fleet.descriptors import load_descriptors
from bem_fleet.serving import vllm_metrics
from bem_fleet.serving.vllm_metrics import LORA_INFO
from prometheus_client.parser import text_string_to_metric_families

from tests.charts.rendering import CHART, ROOT, VALUE_SETS, objects, render
from tools import chart_values, dashboards
from tools.docs_tables import declared_metrics

_QUERIED = re.compile(r"(?<![:\w])bem_[a-z0-9_]+")
_RECORDED = re.compile(r"\w+:\w+:\w+")
_METRIC = re.compile(r"(?<![\w:\"])(?:\w+:)?(?:bem|vllm:|process|engine)\w+(?::\w+)?")
# Of prometheus_client, on every page.
_PROCESS_METRICS = {"process_resident_memory_bytes"}
_COMPARED = re.compile(r"(?:min|max) by \([^)]*\) \((bem_\w+)\) (==|<|>) ([\d. *]+)")
_COMPARISONS = {"==": operator.eq, "<": operator.lt, ">": operator.gt}
FLEET = ROOT / "libs" / "fleet"
_SERIES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


@cache
def exported() -> frozenset[str]:
    """Return the names of the series that the code exports; all modules are parsed for them."""
    found: set[str] = set()
    for folder in ("services", "libs/fleet", "libs/bem_fleet/feedback"):
        for name, kind, _ in declared_metrics(ROOT / folder):
            found |= {name + part for part in _SERIES[kind]}
    return frozenset(found)


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the chart's rules of a kind, ``alert`` or ``record``."""
    group = yaml.safe_load((CHART / "rules" / "fleet.yaml").read_text())["groups"][0]
    return [rule for rule in group["rules"] if kind in rule]


def engine_series() -> set[str]:
    """Return the series under vLLM's names."""
    metrics = [name for name, *_ in (*vllm_metrics.GAUGES, *vllm_metrics.COUNTERS)]
    histograms = [
        f"{name}{part}" for name, *_ in vllm_metrics.HISTOGRAMS for part in _SERIES["histogram"]
    ]
    return {*metrics, *histograms}


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
    queried, recorded = set(), {rule["record"] for rule in rules("record")}
    for path in (CHART / "dashboards").glob("*.json"):
        for expression in expressions(json.loads(path.read_text())):
            names = set(_QUERIED.findall(expression))
            assert names <= exported(), expression
            assert set(_RECORDED.findall(expression)) <= recorded, expression
            queried |= names
    shown = {re.sub("_bucket$", "", name) for name in queried}
    defined = {re.sub("_(bucket|sum|count)$", "", name) for name in exported()}

    assert shown == defined


def test_alerts_query_exported_metrics() -> None:
    """Each rule queries metrics of the code or what a rule before it records."""
    known = {*exported(), *engine_series(), *_PROCESS_METRICS}
    for rule in rules("record"):
        names = set(_METRIC.findall(rule["expr"]))
        assert names
        assert names <= known, rule["record"]
        known.add(rule["record"])
    for rule in rules("alert"):
        names = set(_METRIC.findall(rule["expr"]))
        assert names
        assert names <= known, rule["alert"]


def test_every_recording_has_a_reader() -> None:
    """What is recorded is used by an alert, or by a recording that is."""
    read = {
        name
        for rule in (*rules("record"), *rules("alert"))
        for name in _METRIC.findall(rule["expr"])
    }

    assert {rule["record"] for rule in rules("record")} <= read


def test_each_alert_has_a_section_in_the_runbook() -> None:
    """The link of each alert leads to a heading of its name, and each heading is of an alert."""
    runbook = (ROOT / chart_values.RUNBOOKS).read_text()
    sections = set(re.findall(r"^### (Bem\w+)$", runbook, re.MULTILINE))
    for rule in rules("alert"):
        name, annotations = rule["alert"], rule["annotations"]
        assert annotations["runbook_url"] == f"{chart_values.RUNBOOKS}#{name.lower()}"
        assert annotations["summary"].endswith(".")
        assert annotations["description"].endswith(".")

    assert sections == {rule["alert"] for rule in rules("alert")}


def test_the_chart_links_to_the_runbook_of_the_values() -> None:
    """An installation names its own page; the sections are the same."""
    values = next(v for v in VALUE_SETS if v.stem == "cpu-values")
    rendered = render(
        values, "monitoring.rules.enabled=true", "monitoring.rules.runbooks=wiki/fleet"
    )
    (found,) = (each for each in objects(rendered) if each["kind"] == "PrometheusRule")
    links = {
        rule["annotations"]["runbook_url"]
        for rule in found["spec"]["groups"][0]["rules"]
        if "alert" in rule
    }

    assert links == {f"wiki/fleet#{rule['alert'].lower()}" for rule in rules("alert")}


def test_no_alert_fires_by_an_initial_value() -> None:
    """A process that has imported a metric and never set it fires none of the alerts."""
    compared = [match for rule in rules("alert") if (match := _COMPARED.fullmatch(rule["expr"]))]
    initial = initial_values()

    assert len(compared) > 3
    for match in compared:
        name, comparison, limit = match.groups()
        for value in initial.get(name, []):
            assert not _COMPARISONS[comparison](value, math.prod(map(float, limit.split("*"))))


def initial_values() -> dict[str, list[float]]:
    """Return the values of all metrics in a process that has imported the fleet's modules."""
    found: dict[str, list[float]] = {}
    code = (
        "import importlib, prometheus_client, sys\n"
        "[importlib.import_module(name) for name in sys.argv[1:]]\n"
        "print(prometheus_client.generate_latest().decode())"
    )
    names = [
        f"{package}.{'.'.join(path.relative_to(folder).with_suffix('').parts)}"
        for folder, package in ((ROOT / "services", "bem_fleet.services"), (FLEET, "fleet"))
        for path in folder.rglob("*.py")
        if re.search(r"= (Gauge|Counter|Histogram)\(", path.read_text())
    ]
    page = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    ).stdout
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    return found


def test_autoscaler_follows_an_exported_metric() -> None:
    """Every mission exports the queue length that its autoscaler follows by default."""
    values = next(v for v in VALUE_SETS if v.stem == "gpu-values")
    missions = [one.name for one in load_descriptors() if one.kind == "mission"]
    for name in missions:
        rendered = render(values, f"services.{name}.autoscaling.enabled=true")
        assert f"bem_{name}_requests_waiting" in rendered
        assert f"bem_{name}_requests_waiting" in exported()


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_autoscaler_wakes_a_mission_without_pods(kind: str) -> None:
    """It follows what the gateway exports, which holds the mission's calls; others have pods."""
    values = next(v for v in VALUE_SETS if v.stem == "cpu-values")

    def rendered(name: str, least: int) -> str:
        scaling = f"services.{name}.autoscaling"
        sets = ("enabled=true", f"kind={kind}", f"minReplicas={least}")
        return render(values, *(f"{scaling}.{one}" for one in sets))

    def followed(least: int) -> list[str]:
        scalers = ("HorizontalPodAutoscaler", "ScaledObject")
        found = [one for one in objects(rendered("sep", least)) if one["kind"] in scalers]
        return re.findall(r"bem_[a-z_]+", json.dumps([one["spec"] for one in found]))

    assert "bem_gateway_mission_wanted" in exported()
    assert followed(1) == ["bem_sep_requests_waiting"]
    assert followed(0) == ["bem_sep_requests_waiting", "bem_gateway_mission_wanted"]
    environment = [
        one["value"]
        for each in objects(rendered("sep", 0))
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "bem-fleet-gateway"
        for one in each["spec"]["template"]["spec"]["containers"][0]["env"]
        if one["name"] == "BEM_GATEWAY_IDLE_MISSIONS"
    ]
    assert environment == ['["sep"]']
    for name in ("router", "validation"):
        with pytest.raises(ValueError, match=rf"services\.{name}\.autoscaling\.minReplicas: 0"):
            rendered(name, 0)


def test_no_prometheus_keeps_sets_of_adapters() -> None:
    """On one machine and in a cluster, the metric whose labels have no bound is dropped."""
    values = next(v for v in VALUE_SETS if v.stem == "cpu-values")
    monitors = [
        each
        for each in objects(render(values, "monitoring.monitors.enabled=true"))
        if each["kind"] == "PodMonitor"
    ]
    dropped = {
        one["regex"]
        for each in monitors
        for endpoint in each["spec"]["podMetricsEndpoints"]
        if endpoint["path"] == "/upstream/metrics"
        for one in endpoint["metricRelabelings"]
    }
    (job,) = prometheus_configuration(Plan())["scrape_configs"]

    assert dropped == {LORA_INFO}
    assert {one["regex"] for one in job["metric_relabel_configs"]} == {LORA_INFO}


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
