"""Gate Bench report: summary per gate and scenario, and its Markdown table."""

from typing import Any

import numpy as np

from benchmarks.gates.decisions import PROMOTED, ROLLED_BACK, UNDECIDED, GateDecisions
from benchmarks.gates.traces import LOOK, RECORDED_SCENARIOS, SCENARIOS, Scenario, Traces

ScenarioResult = dict[str, Any]


def scenario_result(traces: Traces, outcomes: GateDecisions, cpu_s: float) -> ScenarioResult:
    """Return the summary of one gate on one scenario; shares are of the seeds."""
    decided = outcomes.verdicts != UNDECIDED
    rolled = outcomes.verdicts == ROLLED_BACK
    served = np.take_along_axis(np.cumsum(traces.bad, axis=1), outcomes.items[:, None] - 1, axis=1)[
        :, 0
    ]
    return {
        "promoted": float((outcomes.verdicts == PROMOTED).mean()),
        "rolled_back": float(rolled.mean()),
        "median_requests": float(np.median(outcomes.items)) if decided.any() else None,
        "median_requests_to_rollback": (
            float(np.median(outcomes.items[rolled])) if rolled.any() else None
        ),
        # Over all seeds: a canary that is not stopped serves until its horizon or promotion.
        "bad_answers_median": float(np.median(served)),
        "bad_answers_p95": float(np.quantile(served, 0.95)),
        "cpu_ms_a_canary": 1_000 * cpu_s / len(outcomes.verdicts),
        "looks": float(outcomes.items.sum() / LOOK),
    }


def summarize_gate(cells: dict[str, ScenarioResult]) -> dict[str, Any]:
    """Return the summary of one gate over all scenarios, weighted equally."""

    def of(chosen: list[Scenario], key: str) -> list[float]:
        return [cells[scenario.name][key] for scenario in chosen]

    harmful = [s for s in SCENARIOS if s.harmful]
    good = [s for s in SCENARIOS if s.good]
    equal = [s for s in SCENARIOS if not s.harmful and not s.good]
    false, true = sum(of(harmful + equal, "promoted")), sum(of(good, "promoted"))
    looks = sum(of(list(SCENARIOS), "looks"))
    seeds_ms = sum(of(list(SCENARIOS), "cpu_ms_a_canary"))
    return {
        "false_promotion_of_harm": max(of(harmful, "promoted")),
        "false_promotion_of_nothing": max(of(equal, "promoted")),
        "false_rollback": max(of(equal + good, "rolled_back")),
        "fdr": false / (false + true) if false + true else 0.0,
        "power_to_promote": of(good, "promoted")[0],
        "power_to_abort": min(of(harmful, "rolled_back")),
        "requests_to_abort_-5": cells["-5 %"]["median_requests_to_rollback"],
        "requests_to_abort_real_-5": cells.get("real -5 %", {}).get("median_requests_to_rollback"),
        "bad_answers_-5_median": cells["-5 %"]["bad_answers_median"],
        "bad_answers_-5_p95": cells["-5 %"]["bad_answers_p95"],
        "cpu_ms_a_decision": seeds_ms / len(SCENARIOS),
        "looks": looks,
    }


COLUMN_HEADINGS = {
    "false_promotion_of_harm": "false promotion, harmful",
    "false_promotion_of_nothing": "false promotion, no gain",
    "false_rollback": "false rollback",
    "fdr": "FDR",
    "power_to_promote": "power: +1.5 % promoted",
    "power_to_abort": "power: harm rolled back",
    "requests_to_abort_-5": "median requests to abort -5 %",
    "requests_to_abort_real_-5": "real -5 %",
    "bad_answers_-5_median": "bad answers before -5 % is aborted, median",
    "bad_answers_-5_p95": "p95",
    "cpu_ms_a_decision": "CPU ms a decision",
}
_COUNT_COLUMNS = {
    "requests_to_abort_-5",
    "requests_to_abort_real_-5",
    "bad_answers_-5_median",
    "bad_answers_-5_p95",
}


def render_markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    headings = {
        key: text
        for key, text in COLUMN_HEADINGS.items()
        if "real" not in key or RECORDED_SCENARIOS[0] in SCENARIOS
    }
    lines = [
        "# Gate Bench",
        "",
        f"""{report["seeds"]} canaries a scenario, up to {report["horizon"]:,} paired requests,
a look every {report["look"]}. `{report["command"]}`""",
        "",
        "| gate | " + " | ".join(headings.values()) + " |",
        "|" + " --- |" * (len(headings) + 1),
    ]
    for gate, values in report["summary"].items():
        shown = [_format_number(key, values.get(key)) for key in headings]
        lines.append(f"| {gate} | " + " | ".join(shown) + " |")
    lines += [
        "",
        *("- " + " ".join(note.split()) for note in report["notes"]),
        "",
        "## By scenario",
        "",
    ]
    lines += ["Promoted / rolled back (median requests to the end).", ""]
    lines += ["| gate | " + " | ".join(s.name for s in SCENARIOS) + " |"]
    lines += ["|" + " --- |" * (len(SCENARIOS) + 1)]
    for gate, cells in report["cells"].items():
        shown = [_format_result(cells.get(scenario.name)) for scenario in SCENARIOS]
        lines.append(f"| {gate} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _format_number(key: str, value: float | None) -> str:
    if value is None:
        return "never"
    if key.startswith("cpu"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if key in _COUNT_COLUMNS else f"{100 * value:.1f} %"


def _format_result(found: ScenarioResult | None) -> str:
    if found is None:
        return "not run"
    median = found["median_requests"]
    shown = "never" if median is None else f"{median:,.0f}"
    return f"{100 * found['promoted']:.1f} / {100 * found['rolled_back']:.1f} % ({shown})"
