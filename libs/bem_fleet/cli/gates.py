"""``fleetctl gates``: report of the acceptance gates, as a table and as ``results/gates.json``."""

import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bem.errors import GateFormatError

from bem_fleet.acceptance.catalogue import CENTRAL_GATES, load_catalogue
from bem_fleet.acceptance.evidence import read_evidence_keys
from bem_fleet.acceptance.gate_table import (
    GATE_TABLE,
    GateResult,
    GateTableRow,
    count_statuses,
    evaluate_gates,
    find_differences,
    phase_passes,
    refused,
    unverifiable,
    write_results,
)
from bem_fleet.cli.reports import print_table

_UNKNOWN = "-"
_HEAD = ("gate", "target", "figure", "95 % CI", "adjusted p", "items", "seeds", "status", "why")


@dataclass(frozen=True)
class CheckOptions:
    """What ``--check`` does beside the comparison with the stored lines.

    Attributes:
        key_files: Files with former operators' keys that verify reports.
        sample: Number of items of each signed report that are measured again; 0 for none.
        seed: Seed of the draw; None for a new one.
    """

    key_files: Sequence[Path] = ()
    sample: int = 0
    seed: int | None = None


def report_gates(
    gates: Path | None,
    root: Path,
    phase: int | None,
    *,
    as_json: bool,
    check: bool,
    options: CheckOptions | None = None,
    report: Path | None = None,
) -> int:
    """Judge all gates, store or check their lines, and print those of one phase.

    Args:
        gates: File with the gates; None for the catalogue's.
        root: Folder that holds ``results``.
        phase: Deployment phase, 1 to 4; None for all.
        as_json: Print JSON.
        check: Compare with the stored lines instead of storing, and verify the reports.
        options: Keys that verify, and the sample that is measured again.
        report: File for the printed gates as Markdown; None writes none.

    Returns:
        0 if all printed gates pass, 1 if not, 2 if ``check`` finds a difference, a report that is
        refused or cannot be verified here, or a re-run that differs.

    Raises:
        GateFormatError: Gates, a report, a key or the stored lines cannot be read.
    """
    options = options or CheckOptions()
    catalogue = load_catalogue(gates or CENTRAL_GATES)
    rows = evaluate_gates(catalogue, root, read_evidence_keys(options.key_files))
    if check:
        problems = [
            *(f"{GATE_TABLE}: {one}" for one in find_differences(_stored(root / GATE_TABLE), rows)),
            *refused(rows),
            *unverifiable(rows),
            *_rerun(rows, root, options),
        ]
        if problems:
            print("\n".join(problems), file=sys.stderr)
            return 2
    else:
        (root / GATE_TABLE).parent.mkdir(parents=True, exist_ok=True)
        write_results([row.result for row in rows], root / GATE_TABLE)
    shown = [row for row in rows if phase in (None, row.gate.phase)]
    if report:
        report.write_text(_markdown(shown, phase), encoding="utf-8")
    if as_json:
        print(_json(shown))
    else:
        _print_table(shown, phase)
    return 0 if phase_passes(shown) else 1


def _rerun(rows: Sequence[GateTableRow], root: Path, options: CheckOptions) -> list[str]:
    """Measure a sample of the verified reports again, and return what differs."""
    names = sorted({row.gate.report for row in rows if row.result.evidence == "verified"})
    if not options.sample or not names:
        return []
    from bem_fleet.studies.sample_rerun import rerun_sample  # noqa: PLC0415 - studies load slowly

    seed = secrets.randbits(32) if options.seed is None else options.seed
    reports = [json.loads((root / name).read_text()) for name in names]
    problems = []
    for one in rerun_sample(reports, options.sample, seed):
        if one.problem and one.is_repeatable:
            problems.append(f"results/{one.study}.json: {one.problem} (--seed {seed})")
        else:
            outcome = one.problem or f"{one.items} items measured again, all equal"
            print(f"{one.study}: {outcome}", file=sys.stderr)
    return problems


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


def _markdown(rows: Sequence[GateTableRow], phase: int | None) -> str:
    """Return the gates as a page: the verdict, then each gate's claim, figures and report."""
    head = ("gate", "claim", *_HEAD[1:], "report")
    lines = [
        f"# {'Phase ' + str(phase) if phase else 'All phases'}",
        "",
        f"{_summary(rows, phase).capitalize()}.",
        "",
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
    ]
    for row in rows:
        name, *others = _cells(row)
        cells = (name, row.gate.claim, *others, row.gate.report)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _print_table(rows: Sequence[GateTableRow], phase: int | None) -> None:
    print_table([_HEAD, *(_cells(row) for row in rows)])
    print(f"\n{_summary(rows, phase)}")


def _summary(rows: Sequence[GateTableRow], phase: int | None) -> str:
    found = count_statuses(rows)
    title = f"phase {phase}" if phase else "all phases"
    verdict = "passes" if phase_passes(rows) else "does not pass"
    summary = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in found.items())
    return f"{title} {verdict}: {summary}"


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
