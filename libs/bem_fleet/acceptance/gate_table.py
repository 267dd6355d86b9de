"""All gates at once: each one's line, with p-values adjusted over all that are measured."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bem.errors import GateFormatError, InvalidScoresError

from bem_fleet.acceptance.catalogue import Catalogue, Gate
from bem_fleet.acceptance.gate_evaluation import (
    ALPHA,
    GateStatus,
    Measurement,
    evaluate_gate,
    measure_gate,
    weakest_measurement,
)
from bem_fleet.acceptance.score_report import ScoreReport, load_score_report
from bem_fleet.stats.fdr import benjamini_hochberg

GATE_TABLE = Path("results/gates.json")
# Figures of another machine may differ in the last bits; a line written by hand differs by more.
_TOLERANCE = 1e-4
_STORED_DIGITS = 6


@dataclass(frozen=True)
class GateResult:
    """One gate as ``results/gates.json`` holds it; the figures are of its weakest metric."""

    id: str
    mission: str
    claim: str
    target: float
    baseline: str | None
    figure: float | None
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    n_items: int
    seeds: int
    status: GateStatus
    report: str
    command: str | None


@dataclass(frozen=True)
class GateTableRow:
    """A line with what a reader wants to know beside it.

    Attributes:
        result: As stored.
        gate: The gate itself.
        reasons: Why it does not pass; empty on a pass.
        coverage: Coverage class of the interval; empty when not measured.
    """

    result: GateResult
    gate: Gate
    reasons: tuple[str, ...]
    coverage: str = ""


def evaluate_gates(catalogue: Catalogue, root: Path) -> list[GateTableRow]:
    """Judge every gate from the per-item scores in its report.

    Args:
        catalogue: Metrics and gates.
        root: Folder that the reports' paths are relative to.

    Raises:
        GateFormatError: A report is there but broken; a missing one only leaves its gates
            unmeasured.
    """
    reports: dict[str, ScoreReport] = {}
    for gate in catalogue.gates.values():
        if gate.report not in reports and (root / gate.report).is_file():
            reports[gate.report] = load_score_report(root / gate.report, catalogue.metrics)
    unmeasured: dict[str, str] = {}
    measured: dict[str, list[Measurement]] = {}
    for identifier, gate in catalogue.gates.items():
        report = reports.get(gate.report)
        if report is None:
            unmeasured[identifier] = f"{gate.report} is not there"
        elif lack := _missing_evidence(catalogue, gate, report):
            unmeasured[identifier] = lack
        else:
            measured[identifier] = _measure_gate(gate, report)
    family = {
        name: weakest_measurement(catalogue.gates[name].rule, of).p for name, of in measured.items()
    }
    adjusted = benjamini_hochberg(family, ALPHA)
    return [
        _table_row(gate, measured[name], adjusted[name].p_adjusted, reports[gate.report].command)
        if name in measured
        else GateTableRow(
            _gate_result(gate, None, None, "not_measured", gate.command), gate, (unmeasured[name],)
        )
        for name, gate in catalogue.gates.items()
    ]


def write_results(lines: Sequence[GateResult], path: Path) -> None:
    """Store lines as JSON, one object a gate."""
    path.write_text(json.dumps([asdict(line) for line in lines], indent=1, allow_nan=False) + "\n")


def find_differences(stored: object, lines: Sequence[GateResult]) -> list[str]:
    """Say where stored lines are not what the per-item scores give.

    Args:
        stored: What ``gates.json`` holds, parsed.
        lines: What ``evaluate_gates`` gives now.

    Returns:
        One sentence for each difference, with the gate's id and the field.
    """
    if not isinstance(stored, list) or not all(isinstance(entry, dict) for entry in stored):
        return ["the file is no list of objects"]
    wanted = [asdict(line) for line in lines]
    ids = [entry.get("id") for entry in stored]
    if ids != [entry["id"] for entry in wanted]:
        return [f"the file holds gates {ids}, the catalogue {[entry['id'] for entry in wanted]}"]
    return [
        f"{right['id']}: {field} is {left.get(field)!r}, the scores give {right.get(field)!r}"
        for left, right in zip(stored, wanted, strict=True)
        for field in sorted({*left, *right})
        if not _nearly_equal(left.get(field), right.get(field))
    ]


def _nearly_equal(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return left == right


def _missing_evidence(catalogue: Catalogue, gate: Gate, report: ScoreReport) -> str:
    """Return why a report does not measure a gate; empty when it does."""
    for name in gate.rule.metrics:
        if name not in report.scores:
            return f"{gate.report} has no metric {name}"
        if report.versions[name] < catalogue.metrics[name].version:
            return (
                f"{gate.report} is older than the metric: {name} is version "
                f"{report.versions[name]} of {catalogue.metrics[name].version}"
            )
    return ""


def _measure_gate(gate: Gate, report: ScoreReport) -> list[Measurement]:
    try:
        return measure_gate(gate.rule, report.scores)
    except InvalidScoresError as err:
        raise GateFormatError(f"{gate.report}: gate {gate.rule.id}: {err}") from err


def _table_row(gate: Gate, measured: Sequence[Measurement], p: float, command: str) -> GateTableRow:
    verdict = evaluate_gate(gate.rule, measured, p)
    shown = weakest_measurement(gate.rule, measured)
    line = _gate_result(gate, shown, p, verdict.status, command)
    return GateTableRow(line, gate, verdict.reasons, shown.coverage)


def _gate_result(
    gate: Gate, shown: Measurement | None, p: float | None, status: GateStatus, command: str | None
) -> GateResult:
    return GateResult(
        id=gate.rule.id,
        mission=gate.mission,
        claim=gate.claim,
        target=gate.rule.target,
        baseline=gate.baseline,
        figure=_round_optional(shown.figure if shown else None),
        ci_low=_round_optional(shown.low if shown else None),
        ci_high=_round_optional(shown.high if shown else None),
        p_adjusted=_round_optional(p),
        n_items=shown.items if shown else 0,
        seeds=shown.seeds if shown else 0,
        status=status,
        report=gate.report,
        command=command,
    )


def _round_optional(value: float | None) -> float | None:
    return None if value is None else round(value, _STORED_DIGITS)


def phase_passes(rows: Sequence[GateTableRow]) -> bool:
    """Whether all gates of a phase pass; a phase without gates does not."""
    return bool(rows) and all(row.result.status == "pass" for row in rows)


def count_statuses(rows: Sequence[GateTableRow]) -> Mapping[str, int]:
    """Count the rows by status, in the order pass, fail, not_measured."""
    statuses = [row.result.status for row in rows]
    return {status: statuses.count(status) for status in ("pass", "fail", "not_measured")}
