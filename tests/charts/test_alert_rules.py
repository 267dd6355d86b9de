"""Alerting rules by promtool: each fires beyond its limit, and none does within it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.test_monitoring import rules
from tests.support.requirements import require

CASES = Path(__file__).parent / "alert_tests.yaml"
_FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def case(name: str) -> dict[str, Any]:
    """Return one group of series of alert_tests.yaml."""
    groups: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]
    return next(one for one in groups if one["name"] == name)


def firing(name: str) -> set[str]:
    """Return the alerts that a group of series expects to fire."""
    check = next(one for one in case(name)["promql_expr_test"] if one["expr"] == _FIRING)
    return {re.findall(r'alertname="(\w+)"', one["labels"])[0] for one in check["exp_samples"]}


def series(name: str) -> set[str]:
    """Return the names of the series of a group."""
    return {re.split("[{]", one["series"])[0] for one in case(name)["input_series"]}


@pytest.mark.requires("promtool")
def test_rules_fire_as_the_cases_say() -> None:
    """Promtool evaluates the chart's rules over hours of series and finds what is expected."""
    done = subprocess.run(
        [require("promtool"), "test", "rules", str(CASES)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases() -> None:
    """Each alert fires in one group, and in another its series stay within the limit."""
    assert firing("beyond") == {rule["alert"] for rule in rules("alert")}
    assert firing("within") == set()
    assert series("beyond") == series("within")
