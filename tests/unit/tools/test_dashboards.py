"""Grafana dashboards from descriptors."""

import json

import pytest
from bem_fleet.described_monitoring import Panel
from bem_fleet.descriptors import Descriptor, DescriptorError

from tools.dashboards import build, collect


def service(name: str, title: str) -> Descriptor:
    """Return a control service with one panel on a shared dashboard."""
    panel = {"title": name, "gauge": f"bem_{name}_size", "by": ["pod"]}
    board = {"name": "shared", "title": title, "panels": [panel]}
    return Descriptor.model_validate(
        {"name": name, "kind": "control", "summary": "s", "port": 1000, "dashboards": [board]}
    )


def test_services_share_a_dashboard() -> None:
    """Panels of all services are on it, those of the service with the title first."""
    boards = collect([service("a", ""), service("b", "Shared")])

    assert boards["shared"][0] == "Shared"
    assert [panel.title for panel in boards["shared"][1]] == ["b", "a"]


@pytest.mark.parametrize("titles", [("", ""), ("A", "B")])
def test_title_is_stated_once(titles: tuple[str, str]) -> None:
    """No title and two titles are errors."""
    with pytest.raises(DescriptorError, match=r"dashboards\.shared: .* titles; state exactly one"):
        collect([service("a", titles[0]), service("b", titles[1])])


def test_panel_selects_the_namespace() -> None:
    """The selector's place holder becomes a matcher of the chosen namespace."""
    board = json.loads(build("T", [Panel(title="p", rate="c_total", by=("pod",))]))
    (target,) = board["panels"][0]["targets"]

    assert target["expr"] == 'sum by (pod) (rate(c_total{namespace="$namespace"}[5m]))'
    assert target["legendFormat"] == "{{pod}}"
