"""``fleetctl gates``: report of the acceptance gates, as a table and as ``results/gates.json``."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bem.errors import GateFormatError

from bem_fleet.acceptance.catalogue import CENTRAL_GATES, load_catalogue
from bem_fleet.acceptance.gate_table import (
    GATE_TABLE,
    GateResult,
    GateTableRow,
    count_statuses,
    evaluate_gates,
    find_differences,
    phase_passes,
    write_results,
)
from bem_fleet.cli.tables import format_table

_UNKNOWN = "-"


def report_gates(
    gates: Path | None, root: Path, phase: int | None, *, as_json: bool, check: bool
) -> int:
    """Judge all gates, store or check their lines, and print those of one phase.

    Args:
        gates: File with the gates; None for the catalogue's.
        root: Folder that holds ``results``.
        phase: Deployment phase, 1 to 4; None for all.
        as_json: Print JSON.
        check: Compare with the stored lines instead of storing.

    Returns:
        0 if all printed gates pass, 1 if not, 2 if ``check`` finds a difference.

    Raises:
        GateFormatError: Gates, a report or the stored lines cannot be read.
    """
    catalogue = load_catalogue(gates or CENTRAL_GATES)
    rows = evaluate_gates(catalogue, root)
    lines = [row.result for row in rows]
    if check:
        if found := find_differences(_stored(root / GATE_TABLE), lines):
            print("\n".join(f"{GATE_TABLE}: {problem}" for problem in found), file=sys.stderr)
            return 2
    else:
        (root / GATE_TABLE).parent.mkdir(parents=True, exist_ok=True)
        write_results(lines, root / GATE_TABLE)
    shown = [row for row in rows if phase in (None, row.gate.phase)]
    print(_json(shown) if as_json else _table(shown, phase))
    return 0 if phase_passes(shown) else 1


def _stored(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise GateFormatError(f"{path.name}: {err}; write it with `make gates`") from err


def _json(rows: Sequence[GateTableRow]) -> str:
    return json.dumps(
        [
            {
                **asdict(row.result),
                "phase": row.gate.phase,
                "coverage": row.coverage or None,
                "reasons": row.reasons,
            }
            for row in rows
        ],
        indent=1,
    )


def _table(rows: Sequence[GateTableRow], phase: int | None) -> str:
    head = ("gate", "target", "figure", "95 % CI", "adjusted p", "items", "seeds", "status", "why")
    cells = [head, *(_cells(row) for row in rows)]
    found = count_statuses(rows)
    title = f"phase {phase}" if phase else "all phases"
    verdict = "passes" if phase_passes(rows) else "does not pass"
    summary = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in found.items())
    return "\n".join([format_table(cells), "", f"{title} {verdict}: {summary}"])


def _cells(row: GateTableRow) -> tuple[str, ...]:
    line = row.result
    sign = ">=" if row.gate.rule.direction == "higher" else "<="
    return (
        line.id,
        f"{row.gate.rule.statistic} {sign} {line.target:g}",
        _number(line.figure),
        _interval(line),
        _number(line.p_adjusted),
        str(line.n_items or _UNKNOWN),
        str(line.seeds or _UNKNOWN),
        line.status.replace("_", " "),
        "; ".join(row.reasons),
    )


def _interval(line: GateResult) -> str:
    if line.ci_low is None or line.ci_high is None:
        return _UNKNOWN
    return f"{line.ci_low:.4g} to {line.ci_high:.4g}"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.4g}"
