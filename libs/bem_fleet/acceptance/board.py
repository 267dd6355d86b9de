"""All gates at once: each one's line, with p-values adjusted over all that are measured."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bem.errors import GateFormatError, InvalidScoresError

from bem_fleet.acceptance.catalogue import Catalogue, Gate
from bem_fleet.acceptance.judge import ALPHA, Measurement, Status, judge, measure, weakest
from bem_fleet.acceptance.report import Report, load_report
from bem_fleet.stats.fdr import benjamini_hochberg

BOARD = Path("results/gates.json")
# Figures of another machine may differ in the last bits; a line written by hand differs by more.
_TOLERANCE = 1e-4
_DIGITS = 6


@dataclass(frozen=True)
class Line:
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
    status: Status
    report: str
    command: str | None


@dataclass(frozen=True)
class Row:
    """A line with what a reader wants to know beside it.

    Attributes:
        line: As stored.
        gate: The gate itself.
        reasons: Why it does not pass; empty on a pass.
        coverage: Coverage class of the interval; empty when not measured.
    """

    line: Line
    gate: Gate
    reasons: tuple[str, ...]
    coverage: str = ""


def evaluate(catalogue: Catalogue, root: Path) -> list[Row]:
    """Judge every gate from the per-item scores in its report.

    Args:
        catalogue: Metrics and gates.
        root: Folder that the reports' paths are relative to.

    Raises:
        GateFormatError: A report is there but broken; a missing one only leaves its gates
            unmeasured.
    """
    reports: dict[str, Report] = {}
    for gate in catalogue.gates.values():
        if gate.report not in reports and (root / gate.report).is_file():
            reports[gate.report] = load_report(root / gate.report, catalogue.metrics)
    unmeasured: dict[str, str] = {}
    measured: dict[str, list[Measurement]] = {}
    for identifier, gate in catalogue.gates.items():
        report = reports.get(gate.report)
        if report is None:
            unmeasured[identifier] = f"{gate.report} is not there"
        elif lack := _lacks(catalogue, gate, report):
            unmeasured[identifier] = lack
        else:
            measured[identifier] = _measure(gate, report)
    family = {name: weakest(catalogue.gates[name].judged, of).p for name, of in measured.items()}
    adjusted = benjamini_hochberg(family, ALPHA)
    return [
        _row(gate, measured[name], adjusted[name].p_adjusted, reports[gate.report].command)
        if name in measured
        else Row(_line(gate, None, None, "not_measured", gate.command), gate, (unmeasured[name],))
        for name, gate in catalogue.gates.items()
    ]


def write_lines(lines: Sequence[Line], path: Path) -> None:
    """Store lines as JSON, one object a gate."""
    path.write_text(json.dumps([asdict(line) for line in lines], indent=1, allow_nan=False) + "\n")


def differences(stored: object, lines: Sequence[Line]) -> list[str]:
    """Say where stored lines are not what the per-item scores give.

    Args:
        stored: What ``gates.json`` holds, parsed.
        lines: What ``evaluate`` gives now.

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
        if not _same(left.get(field), right.get(field))
    ]


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return left == right


def _lacks(catalogue: Catalogue, gate: Gate, report: Report) -> str:
    """Return why a report does not measure a gate; empty when it does."""
    for name in gate.judged.metrics:
        if name not in report.scores:
            return f"{gate.report} has no metric {name}"
        if report.versions[name] < catalogue.metrics[name].version:
            return (
                f"{gate.report} is older than the metric: {name} is version "
                f"{report.versions[name]} of {catalogue.metrics[name].version}"
            )
    return ""


def _measure(gate: Gate, report: Report) -> list[Measurement]:
    try:
        return measure(gate.judged, report.scores)
    except InvalidScoresError as err:
        raise GateFormatError(f"{gate.report}: gate {gate.judged.id}: {err}") from err


def _row(gate: Gate, measured: Sequence[Measurement], p: float, command: str) -> Row:
    verdict = judge(gate.judged, measured, p)
    shown = weakest(gate.judged, measured)
    line = _line(gate, shown, p, verdict.status, command)
    return Row(line, gate, verdict.reasons, shown.coverage)


def _line(
    gate: Gate, shown: Measurement | None, p: float | None, status: Status, command: str | None
) -> Line:
    return Line(
        id=gate.judged.id,
        mission=gate.mission,
        claim=gate.claim,
        target=gate.judged.target,
        baseline=gate.baseline,
        figure=_rounded(shown.figure if shown else None),
        ci_low=_rounded(shown.low if shown else None),
        ci_high=_rounded(shown.high if shown else None),
        p_adjusted=_rounded(p),
        n_items=shown.items if shown else 0,
        seeds=shown.seeds if shown else 0,
        status=status,
        report=gate.report,
        command=command,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def phase_passes(rows: Sequence[Row]) -> bool:
    """Whether all gates of a phase pass; a phase without gates does not."""
    return bool(rows) and all(row.line.status == "pass" for row in rows)


def counts(rows: Sequence[Row]) -> Mapping[str, int]:
    """Count the rows by status, in the order pass, fail, not_measured."""
    statuses = [row.line.status for row in rows]
    return {status: statuses.count(status) for status in ("pass", "fail", "not_measured")}
