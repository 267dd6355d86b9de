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


def _events(title: str, counter: str, by: str) -> Graph:
    """Return a panel of a counter's events a second, by one label."""
    return Graph(title, "short", f"{{{{{by}}}}}", f"sum by ({by}) (rate({counter}HERE[5m]))")


def _state(title: str, gauge: str, by: str, unit: str = "short") -> Graph:
    """Return a panel of a gauge, by one label."""
    return Graph(title, unit, f"{{{{{by}}}}}", f"sum by ({by}) ({gauge}HERE)")


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
        # No error has no series yet, which would be no share instead of none.
        '(sum(rate(bem_gateway_requests_total{namespace="$namespace",code=~"5.."}[5m]))'
        " or vector(0)) / sum(rate(bem_gateway_requests_totalHERE[5m]))",
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
    _state("Requests running", "bem_router_requests_running", "pod"),
    _state("Requests waiting", "bem_router_requests_waiting", "pod"),
    _events("Tokens generated", "bem_router_generated_tokens_total", "pod"),
    _events("Prompt tokens computed", "bem_router_prompt_tokens_total", "pod"),
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
        "Adapters resident",
        "short",
        "{{adapter}} {{version}}",
        "max by (adapter, version) (bem_router_adapter_residentHERE)",
    ),
    Graph(
        "Calls, p95",
        "s",
        "{{method}} {{code}}",
        _quantile(0.95, "bem_fleet_rpc_seconds", "method, code"),
    ),
    _state("Prompts from the prefix cache", "bem_router_prefix_hit_ratio", "pod", "percentunit"),
    _state("Prefix cache", "bem_router_prefix_cache_bytes", "pod", "bytes"),
    _events("Prompt tokens not computed", "bem_router_prefix_reused_tokens_total", "pod"),
    _events(
        "Prompt tokens not computed below the sites",
        "bem_router_prefix_reused_lower_tokens_total",
        "pod",
    ),
    _events("Adapters brought into a slot", "bem_router_adapter_page_ins_total", "pod"),
    Graph("A verdict, p95", "s", "p95", _quantile(0.95, "bem_safety_check_seconds")),
    _events("Verdicts known by content", "bem_safety_cached_findings_total", "pod"),
    _state("Scorers not asked", "bem_safety_breaker_open", "tier"),
    _events("SafetyPolicy read", "bem_safety_policy_reloads_total", "outcome"),
    Graph(
        "Scorer restarts", "short", "restarts", "increase(bem_safety_scorer_restarts_totalHERE[1h])"
    ),
)

VALIDATION = (
    _state("Comparisons in hand", "bem_validation_comparisons_in_progress", "pod"),
    Graph("A comparison, p95", "s", "p95", _quantile(0.95, "bem_validation_compute_seconds")),
    _events("Looks at canaries", "bem_validation_canary_analyses_total", "verdict"),
)

ORCHESTRATOR = (
    _state("Missions by phase", "bem_orchestrator_missions", "phase"),
    _state("GPUs by mission", "bem_orchestrator_gpus_assigned", "mission"),
    _state("Claims without GPUs", "bem_orchestrator_gpu_requests_unmet", "reason"),
    _events("Pods displaced", "bem_orchestrator_pods_displaced_total", "how"),
    Graph("A round, p95", "s", "p95", _quantile(0.95, "bem_orchestrator_reconcile_seconds")),
    Graph("A plan, p95", "s", "p95", _quantile(0.95, "bem_orchestrator_solve_seconds")),
    _state("Leader", "bem_orchestrator_leader", "pod"),
    _events("API requests", "bem_orchestrator_api_requests_total", "verb"),
    _events("Writes to be done again", "bem_orchestrator_writes_failed_total", "kind"),
    _state("Objects in caches", "bem_orchestrator_informer_objects", "resource"),
    _events("Lists from scratch", "bem_orchestrator_informer_lists_total", "resource"),
    _events("Kubernetes Events", "bem_orchestrator_events_total", "reason"),
)

CANARIES = (
    _state("Weight as planned", "bem_orchestrator_canary_weight_percent", "mission", "percent"),
    _state("Weight as split", "bem_gateway_canary_weight_percent", "mission", "percent"),
    _events("Requests by track", "bem_gateway_track_requests_total", "track"),
    _events("Canary's failures answered by stable", "bem_gateway_canary_saved_total", "mission"),
    _events("Requests asked of both tracks", "bem_gateway_mirrored_total", "end"),
    _events("Pairs observed", "bem_gateway_canary_pairs_total", "kind"),
    _events("Pairs lost", "bem_gateway_canary_pairs_lost_total", "pod"),
    _events("Route tables taken over", "bem_gateway_route_tables_total", "pod"),
    _events("Looks by verdict", "bem_orchestrator_canary_analyses_total", "verdict"),
    _events("Changes of phase", "bem_orchestrator_canary_changes_total", "phase"),
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
    "orchestrator.json": ("BEM Fleet orchestrator", ORCHESTRATOR),
    "canaries.json": ("BEM Fleet canaries", CANARIES),
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
