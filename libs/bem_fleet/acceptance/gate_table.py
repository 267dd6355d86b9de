"""Table of all acceptance gates, with p-values adjusted over the family of all gates.

The family is that of the gates' file: a gate without a measurement is a member with p-value 1, so
that a report that is left out, refused or added changes the number of members for nobody.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bem.errors import GateFormatError, InvalidScoresError

from bem_fleet.acceptance.catalogue import Catalogue, Gate
from bem_fleet.acceptance.evidence import (
    EvidenceKey,
    EvidenceState,
    EvidenceVerdict,
    check_evidence,
)
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
# Floating-point results of another machine differ in the last bits; manual edits differ by more.
_TOLERANCE = 1e-4
_STORED_DIGITS = 6


@dataclass(frozen=True)
class GateResult:
    """Result of a gate as stored in ``results/gates.json``; figures are of its weakest metric."""

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
    evidence: EvidenceState | None = None


@dataclass(frozen=True)
class GateTableRow:
    """Row of the gate table.

    Attributes:
        result: Stored result.
        gate: Gate definition.
        reasons: Reasons why the gate does not pass; empty on a pass.
        coverage: Coverage class of the interval; empty when not measured.
        by_scores: Status that the scores give, whatever the report is worth as evidence.
    """

    result: GateResult
    gate: Gate
    reasons: tuple[str, ...]
    coverage: str = ""
    by_scores: GateStatus = "not_measured"


def evaluate_gates(
    catalogue: Catalogue,
    root: Path,
    keys: Sequence[EvidenceKey],
) -> list[GateTableRow]:
    """Evaluate every gate on the per-item scores of its report.

    Args:
        catalogue: Metrics and gates.
        root: Folder of the reports; their paths are relative to it.
        keys: Keys that verify reports on this machine.

    Raises:
        GateFormatError: A report is not valid. Gates of a missing or refused report are not
            measured.
    """
    reports, evidence = _read_reports(catalogue, root, keys)
    unmeasured: dict[str, str] = {}
    measured: dict[str, list[Measurement]] = {}
    for identifier, gate in catalogue.gates.items():
        report = reports.get(gate.report)
        if gate.report not in evidence:
            unmeasured[identifier] = f"{gate.report} does not exist"
        elif report is None:
            unmeasured[identifier] = f"{gate.report} is refused: {evidence[gate.report].reason}"
        elif problem := _missing_evidence(catalogue, gate, report):
            unmeasured[identifier] = problem
        else:
            measured[identifier] = _measure_gate(gate, report)
    family = {
        name: weakest_measurement(gate.rule, measured[name]).p if name in measured else 1.0
        for name, gate in catalogue.gates.items()
    }
    adjusted = benjamini_hochberg(family, ALPHA)
    return [
        _table_row(
            gate,
            measured[name],
            adjusted[name].p_adjusted,
            reports[gate.report].command,
            evidence[gate.report],
        )
        if name in measured
        else _unmeasured_row(gate, unmeasured[name], evidence.get(gate.report))
        for name, gate in catalogue.gates.items()
    ]


def _read_reports(
    catalogue: Catalogue, root: Path, keys: Sequence[EvidenceKey]
) -> tuple[dict[str, ScoreReport], dict[str, EvidenceVerdict]]:
    """Return the reports that are no forgeries, and what each existing report is worth."""
    reports: dict[str, ScoreReport] = {}
    evidence: dict[str, EvidenceVerdict] = {}
    for name in {gate.report: None for gate in catalogue.gates.values()}:
        path = root / name
        if path.is_file():
            report = load_score_report(path, catalogue.metrics)
            evidence[name] = check_evidence(path, name, keys)
            if evidence[name].state != "refused":
                reports[name] = report
    return reports, evidence


def write_results(results: Sequence[GateResult], path: Path) -> None:
    """Write results as JSON, one object per gate."""
    path.write_text(
        json.dumps([asdict(result) for result in results], indent=1, allow_nan=False) + "\n"
    )


def find_differences(stored: object, rows: Sequence[GateTableRow]) -> list[str]:
    """Return the differences between stored results and computed ones.

    A report that is signed with another machine's key cannot be verified here. Its stored result is
    compared as if it were; what is not verified is in ``unverifiable``.

    Args:
        stored: Parsed content of ``gates.json``.
        rows: Rows of ``evaluate_gates``.

    Returns:
        One sentence for each difference, with gate id and field.
    """
    if not isinstance(stored, list) or not all(isinstance(entry, dict) for entry in stored):
        return ["the file is not a list of objects"]
    computed = [_as_elsewhere(row) for row in rows]
    ids = [entry.get("id") for entry in stored]
    if ids != [entry["id"] for entry in computed]:
        return [f"the file holds gates {ids}, the catalogue {[entry['id'] for entry in computed]}"]
    return [
        f"{right['id']}: {field} is {left.get(field)!r}, the scores give {right.get(field)!r}"
        for left, right in zip(stored, computed, strict=True)
        for field in sorted({*left, *right})
        if not _nearly_equal(left.get(field), right.get(field))
    ]


def unverifiable(rows: Sequence[GateTableRow]) -> list[str]:
    """Return the reports that were signed with a key of another machine, one sentence each."""
    return [
        row.reasons[-1]
        for row in {row.gate.report: row for row in rows}.values()
        if row.result.evidence == "unknown_key"
    ]


def refused(rows: Sequence[GateTableRow]) -> list[str]:
    """Return the reports that are no evidence, one sentence each."""
    return [
        row.reasons[-1]
        for row in {row.gate.report: row for row in rows}.values()
        if row.result.evidence == "refused"
    ]


def _as_elsewhere(row: GateTableRow) -> dict[str, object]:
    computed: dict[str, object] = asdict(row.result)
    if row.result.evidence == "unknown_key":
        computed |= {"status": row.by_scores, "evidence": "verified"}
    return computed


def _nearly_equal(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return left == right


def _missing_evidence(catalogue: Catalogue, gate: Gate, report: ScoreReport) -> str:
    """Return the reason why a report does not measure a gate; empty if it does."""
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


def _table_row(
    gate: Gate, measured: Sequence[Measurement], p: float, command: str, evidence: EvidenceVerdict
) -> GateTableRow:
    verdict = evaluate_gate(gate.rule, measured, p)
    decisive = weakest_measurement(gate.rule, measured)
    status, reasons = verdict.status, verdict.reasons
    if evidence.state != "verified":
        # A loss is believed without a signature; a pass is not.
        status = "unverified" if status == "pass" else status
        reasons = (*reasons, f"{gate.report}: {evidence.reason}")
    result = _gate_result(gate, decisive, p, status, command=command, evidence=evidence.state)
    return GateTableRow(result, gate, reasons, decisive.coverage, verdict.status)


def _unmeasured_row(gate: Gate, reason: str, evidence: EvidenceVerdict | None) -> GateTableRow:
    state = evidence.state if evidence else None
    result = _gate_result(gate, None, None, "not_measured", command=gate.command, evidence=state)
    return GateTableRow(result, gate, (reason,))


def _gate_result(
    gate: Gate,
    shown: Measurement | None,
    p: float | None,
    status: GateStatus,
    *,
    command: str | None,
    evidence: EvidenceState | None,
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
        evidence=evidence,
    )


def _round_optional(value: float | None) -> float | None:
    return None if value is None else round(value, _STORED_DIGITS)


def phase_passes(rows: Sequence[GateTableRow]) -> bool:
    """Return whether all gates of a phase pass; a phase without gates does not pass."""
    return bool(rows) and all(row.result.status == "pass" for row in rows)


def count_statuses(rows: Sequence[GateTableRow]) -> Mapping[str, int]:
    """Return the number of rows by status, in the order pass, fail, unverified, not_measured."""
    statuses = [row.result.status for row in rows]
    order: tuple[GateStatus, ...] = ("pass", "fail", "unverified", "not_measured")
    return {status: statuses.count(status) for status in order}
