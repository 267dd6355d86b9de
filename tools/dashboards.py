"""Writes the chart's Grafana dashboards: ``python -m tools.dashboards [--check]``."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).resolve().parents[1] / "charts" / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_HERE = '{namespace="$namespace"}'


@dataclass(frozen=True)
class Graph:
    """One panel.

    Attributes:
        title: What it shows.
        unit: Grafana's unit, such as ``s`` or ``reqps``.
        legend: Of each line.
        query: PromQL; ``HERE`` stands for the selector of the namespace.
    """

    title: str
    unit: str
    legend: str
    query: str


def _quantile(share: float, histogram: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    rate = f"rate({histogram}_bucketHERE[5m])"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate}))"


OVERVIEW = (
    Graph(
        "Requests by status",
        "reqps",
        "{{code}}",
        "sum by (code) (rate(bem_gateway_requests_totalHERE[5m]))",
    ),
    Graph(
        "Share of server errors",
        "percentunit",
        "errors",
        'sum(rate(bem_gateway_requests_total{namespace="$namespace",code=~"5.."}[5m]))'
        " / sum(rate(bem_gateway_requests_totalHERE[5m]))",
    ),
    Graph("Time to the first piece, p95", "s", "p95", _quantile(0.95, "bem_gateway_ttft_seconds")),
    Graph(
        "Time between two pieces, p95",
        "s",
        "p95",
        _quantile(0.95, "bem_gateway_inter_token_seconds"),
    ),
    Graph(
        "Time of a request, p95",
        "s",
        "{{route}}",
        _quantile(0.95, "bem_gateway_request_seconds", "route"),
    ),
    Graph(
        "Feedback",
        "reqps",
        "{{rating}}",
        "sum by (rating) (rate(bem_gateway_feedback_totalHERE[5m]))",
    ),
    Graph(
        "Verdicts",
        "reqps",
        "{{action}} {{category}}",
        "sum by (action, category) (rate(bem_safety_verdicts_totalHERE[5m]))",
    ),
    Graph(
        "Audit records",
        "reqps",
        "{{action}}",
        "sum by (action) (rate(bem_safety_audit_records_totalHERE[5m]))",
    ),
    Graph(
        "Claims",
        "short",
        "{{kind}}",
        "sum by (kind) (increase(bem_validation_claims_totalHERE[1h]))",
    ),
)

ROUTER = (
    Graph("Requests running", "short", "{{pod}}", "sum by (pod) (bem_router_requests_runningHERE)"),
    Graph("Requests waiting", "short", "{{pod}}", "sum by (pod) (bem_router_requests_waitingHERE)"),
    Graph(
        "Tokens generated",
        "short",
        "{{pod}}",
        "sum by (pod) (rate(bem_router_generated_tokens_totalHERE[5m]))",
    ),
    Graph(
        "Prompt tokens computed",
        "short",
        "{{pod}}",
        "sum by (pod) (rate(bem_router_prompt_tokens_totalHERE[5m]))",
    ),
    Graph(
        "Rows a decode step",
        "short",
        "rows",
        "sum(rate(bem_router_generated_tokens_totalHERE[5m]))"
        " / sum(rate(bem_router_decode_steps_totalHERE[5m]))",
    ),
    Graph(
        "Time between two tokens, p95",
        "s",
        "p95",
        _quantile(0.95, "bem_router_inter_token_seconds"),
    ),
    Graph("Time to the first token, p95", "s", "p95", _quantile(0.95, "bem_router_ttft_seconds")),
    Graph(
        "Requests dropped",
        "reqps",
        "dropped",
        "sum(rate(bem_router_requests_dropped_totalHERE[5m]))",
    ),
    Graph(
        "Skills resident",
        "short",
        "{{skill}} {{version}}",
        "max by (skill, version) (bem_router_adapter_residentHERE)",
    ),
    Graph(
        "Calls, p95",
        "s",
        "{{method}} {{code}}",
        _quantile(0.95, "bem_fleet_rpc_seconds", "method, code"),
    ),
    Graph("A verdict, p95", "s", "p95", _quantile(0.95, "bem_safety_check_seconds")),
    Graph(
        "Scorer restarts", "short", "restarts", "increase(bem_safety_scorer_restarts_totalHERE[1h])"
    ),
)

VALIDATION = (
    Graph(
        "Comparisons in hand", "short", "{{pod}}", "sum by (pod) (bem_validation_comparisonsHERE)"
    ),
    Graph("A comparison, p95", "s", "p95", _quantile(0.95, "bem_validation_compute_seconds")),
)


def build(title: str, graphs: Sequence[Graph]) -> str:
    """Return a dashboard as JSON: two graphs a row, over one namespace that the viewer chooses."""
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
    for graph in graphs:
        query = graph.query.replace("HERE", _HERE)
        panel = (
            timeseries.Panel()
            .title(graph.title)
            .unit(graph.unit)
            .datasource(_SOURCE)
            .span(12)
            .height(8)
            .with_target(prometheus.Dataquery().expr(query).legend_format(graph.legend))
        )
        board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


BOARDS = {
    "fleet-overview.json": ("BEM Fleet overview", OVERVIEW),
    "router.json": ("BEM Fleet router", ROUTER),
    "validation.json": ("BEM Fleet validation", VALIDATION),
}


def main() -> int:
    """Write the dashboards; with ``--check`` say which is not as it would be written."""
    stale = []
    for name, (title, graphs) in BOARDS.items():
        file, text = FOLDER / name, build(title, graphs)
        if "--check" not in sys.argv:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text)
        elif not file.exists() or json.loads(file.read_text()) != json.loads(text):
            stale.append(name)
    if stale:
        print(f"stale: {', '.join(stale)}; run `make dashboards`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
