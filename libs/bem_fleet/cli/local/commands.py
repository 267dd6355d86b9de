"""Commands of the local fleet: up, down, status and logs."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.local.checks import check, unknown_settings
from bem_fleet.cli.local.health import first_problem, served_models
from bem_fleet.cli.local.memory import tree_pss_bytes
from bem_fleet.cli.local.mission_notes import mission_notes
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import start, states, stop
from bem_fleet.cli.reports import Report, Table, print_table

# First start: the base model is de-quantised, which takes half a minute.
STARTUP_TIMEOUT_S = 180.0
# A process that was started this often without the fleet coming up will not get better.
MAX_STARTS = 4
_POLL_S = 0.25
# Records that a service writes before it exits, with the reason; see fleet.server.
_EXIT_EVENTS = ("background work failed", "cannot start")
_REASON_LINES = 400


def up(plan: Plan) -> int:
    """Start what does not run, wait until everything is healthy, and print what listens where.

    Returns:
        0 once the fleet is healthy, 1 if it does not come up.

    Raises:
        NotReadyToStartError: A port is in use or the disk is full.
    """
    for line in unknown_settings(plan):
        print(f"warning: {line}", file=sys.stderr)
    if not states(plan):
        check(plan)
        print("starting " + ", ".join(program.name for program in plan.programs()), flush=True)
        start(plan)
    if reason := _wait_healthy(plan):
        print(f"the fleet did not come up: {reason}", file=sys.stderr)
        return 1
    print_table(_process_table(process_rows(plan)).rows)
    for line in _note_lines(mission_notes(plan)):
        print(line)
    print(_example(plan))
    return 0


def down(plan: Plan) -> int:
    """Stop what ``up`` started; requests in flight finish."""
    print("stopped" if stop(plan) else "no fleet is running")
    return 0


def status(plan: Plan) -> Report:
    """Return every process with its memory, the models served, and whether the fleet is healthy.

    Returns:
        Exit code 0 if it is healthy, 1 if not.
    """
    rows = process_rows(plan)
    running = any(row["pid"] for row in rows)
    healthy = running and first_problem(plan) is None
    models = served_models(plan) if healthy else {}
    notes = mission_notes(plan) if running else {}
    total = sum(row["pss_bytes"] or 0 for row in rows)
    lines = [
        *(
            f"{name}: {one['base_model']} with {one['weights']} weights"
            for name, one in models.items()
        ),
        *_note_lines(notes),
        f"memory: {total / 2**20:.0f} MiB in all; healthy: {'yes' if healthy else 'no'}",
    ]
    shown = {"healthy": healthy, "ports": dict(plan.ports), "programs": rows}
    data = {**shown, "models": models, "notes": notes}
    return Report(data, [_process_table(rows), *lines], YES if healthy else NO)


def logs(plan: Plan, service: str, lines: int, *, follow: bool) -> int:
    """Print the last lines of the logs; with ``follow``, continue until interrupted."""
    known = [program.name for program in plan.programs()]
    names = [service] if service else known
    for name in names:
        file = plan.logs / f"{name}.log"
        if not file.exists():
            print(f"service: there is no log of {name!r}; choose one of {', '.join(known)}")
            continue
        print(f"== {name}")
        print("\n".join(_tail(file, lines)), flush=True)
    if follow:
        files = [str(plan.logs / f"{name}.log") for name in names]
        os.execvp("tail", ["tail", "-n0", "-F", *files])  # noqa: S606 - replaces this process
    return 0


def process_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return state, process id, ports and memory of every process.

    ``pss_bytes`` is the proportional set size of the process and its children: memory that several
    processes share is divided among them, so that the rows add up.
    """
    known = states(plan)
    rows = []
    for program in plan.programs():
        state = known.get(program.name, {})
        pid = int(state.get("pid", 0))
        rows.append(
            {
                "name": program.name,
                "state": state.get("statename", "STOPPED"),
                "pid": pid,
                "listens": program.listens,
                "metrics": list(program.metrics),
                "pss_bytes": tree_pss_bytes(pid),
                "summary": program.summary,
            }
        )
    return rows


def _tail(file: Path, lines: int) -> list[str]:
    return file.read_text(errors="replace").splitlines()[-lines:]


def _wait_healthy(plan: Plan) -> str | None:
    """Wait with a line for every change; return why it failed, or None once all is healthy."""
    began = time.monotonic()
    last = ""
    pids: dict[str, set[int]] = {}
    while (passed := time.monotonic() - began) < STARTUP_TIMEOUT_S:
        problem = first_problem(plan)
        if problem is None:
            print(f"healthy after {passed:.1f} s", flush=True)
            return None
        if problem != last:
            print(f"  {passed:5.1f} s  waiting: {problem}", flush=True)
            last = problem
        for name, state in states(plan).items():
            pids.setdefault(name, set()).add(state["pid"])
            if len(pids[name] - {0}) >= MAX_STARTS:
                reason = _exit_reason(plan.logs / f"{name}.log")
                return f"{name} keeps exiting{reason}; see `make logs SERVICE={name}`"
        time.sleep(_POLL_S)
    return f"not healthy after {STARTUP_TIMEOUT_S:.0f} s ({last}); see `make logs`"


def _exit_reason(file: Path) -> str:
    """Return the reason in the last record of a log that has one, after a colon."""
    for line in reversed(_tail(file, _REASON_LINES) if file.exists() else []):
        try:
            record = json.loads(line)
        except ValueError:  # a traceback, or the output of a library
            continue
        if isinstance(record, dict) and record.get("event") in _EXIT_EVENTS:
            return f": {record.get('reason', '')}"
    return ""


def _process_table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        (row["name"], row["state"], _mebibytes(row["pss_bytes"]), row["listens"], row["summary"])
        for row in rows
    ]
    return Table([("process", "state", "memory", "listens", "what it is"), *cells])


def _note_lines(notes: dict[str, list[str]]) -> list[str]:
    return [f"{name}: {text}" for name, texts in notes.items() for text in texts]


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f} MiB"


def _example(plan: Plan) -> str:
    body = '{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":'
    body += '"Name the capital of France."}],"temperature":0}'
    return (
        f"\ntry:\n  curl -s http://{plan.address('gateway')}/v1/chat/completions "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
