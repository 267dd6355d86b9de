"""``python -m benchmarks.orchestrator --part times|optimality|reconcile|others|rollback``."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.orchestrator import assignment, cluster, rollback

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results/bench_orchestrator.json"
PARTS: dict[str, tuple[Callable[[], list[dict[str, Any]]], str]] = {
    "times": (assignment.times, "Time of one plan, ms; load is requested GPUs over available GPUs"),
    "optimality": (
        assignment.optimality,
        "Against the lexicographic optimum (scipy milp), load 1.3: GPUs in use, short by class",
    ),
    "reconcile": (
        cluster.reconcile,
        "Against a real API server: every mission new, then one change; seconds and requests",
    ),
    "others": (
        cluster.against_others,
        "GPUs in use on the same fleets (20 missions, 8 nodes), by class, and complete missions",
    ),
    "rollback": (
        rollback.rollback,
        "An adapter canary at 50 % is aborted: time until its last request began (8 clients)",
    ),
}


def main() -> None:
    """Run the chosen parts and write the tables of all parts that have results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    names = parser.parse_args().part or list(PARTS)
    report: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in names:
        report[name] = PARTS[name][0]()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    lines = ["# The orchestrator", "", "`make bench-orchestrator`, 2 cores shared with others."]
    for name, (_, title) in PARTS.items():
        if rows := report.get(name):
            lines += ["", f"## {title}", "", _line(rows[0]), "|" + " --- |" * len(rows[0])]
            lines += [_line(row.values()) for row in rows]
    OUT.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
