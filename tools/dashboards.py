"""Grafana dashboards from the service descriptors: ``python -m tools.dashboards [--check]``."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bem_fleet.checkout import ROOT
from bem_fleet.described_monitoring import Panel
from bem_fleet.descriptors import Descriptor, DescriptorError, load_descriptors
from grafana_foundation_sdk.builders import dashboard, gauge, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from tools.generated_files import write_or_check

_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_KINDS: Mapping[str, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "gauge": gauge.Panel,
}
_SELECTOR = '{namespace="$namespace"}'


def build(title: str, panels: Sequence[Panel]) -> str:
    """Return a dashboard as JSON: two panels a row, over one namespace that the viewer chooses."""
    board = (
        dashboard.Dashboard(title)
        .uid(title.lower().replace(" ", "-"))
        .tags(["bem-fleet"])
        .refresh("30s")
        .with_variable(
            dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus")
        )
        .with_variable(
            dashboard.QueryVariable("namespace")
            .label("Namespace")
            .datasource(_SOURCE)
            .query("label_values(bem_gateway_requests_total, namespace)")
        )
    )
    for panel in panels:
        query = panel.expression.replace("SELECTOR", _SELECTOR)
        board.with_panel(
            _KINDS[panel.kind]()
            .title(panel.title)
            .unit(panel.unit)
            .datasource(_SOURCE)
            .span(12)
            .height(8)
            .with_target(prometheus.Dataquery().expr(query).legend_format(panel.line_legend))
        )
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def collect(descriptors: Sequence[Descriptor]) -> dict[str, tuple[str, list[Panel]]]:
    """Return title and panels of each dashboard by its name.

    Raises:
        DescriptorError: No service or more than one states a dashboard's title.
    """
    titles: dict[str, list[str]] = {}
    panels: dict[str, list[Panel]] = {}
    # The service that states the title comes first on the dashboard.
    parts = [part for one in descriptors for part in one.dashboards]
    for part in sorted(parts, key=lambda part: not part.title):
        titles.setdefault(part.name, []).extend([part.title] if part.title else [])
        panels.setdefault(part.name, []).extend(part.panels)
    for name, stated in titles.items():
        if len(stated) != 1:
            raise DescriptorError(f"dashboards.{name}: {len(stated)} titles; state exactly one")
    return {name: (stated[0], panels[name]) for name, stated in titles.items()}


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Return the content of every dashboard file of the chart."""
    folder = root / "charts" / "dashboards"
    boards = collect(load_descriptors(root))
    return {folder / f"{name}.json": build(*board) for name, board in boards.items()}


def main() -> int:
    """Write the dashboards, or compare them with ``--check``."""
    return write_or_check(generated(), "make dashboards")


if __name__ == "__main__":
    sys.exit(main())
