"""Command line of the local fleet."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import grpc
import httpx
from fleet.errors import details_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bem_fleet.cli.local.checks import NotReadyToStartError, check
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import start, states, stop

# First start: the base model is de-quantised, which takes half a minute.
HEALTHY_S = 180.0
# A process that was started this often without the fleet coming up will not get better.
DEATHS = 4


def up(plan: Plan) -> int:
    """Start what does not run, wait until everything is healthy, and say what is where."""
    if not states(plan):
        check(plan)
        print("starting " + ", ".join(program.name for program in plan.programs()), flush=True)
        start(plan)
    if reason := _wait_healthy(plan):
        print(f"the fleet did not come up: {reason}", file=sys.stderr)
        return 1
    print(_table(plan))
    print(_example(plan))
    return 0


def down(plan: Plan) -> int:
    """Stop what ``up`` started."""
    print("stopped" if stop(plan) else "nothing runs")
    return 0


def status(plan: Plan, *, as_json: bool) -> int:
    """Print the processes and whether the fleet answers; exit status 1 if it does not."""
    found = states(plan)
    healthy = bool(found) and _problem(plan) is None
    if as_json:
        rows = [
            {
                "name": program.name,
                "state": found.get(program.name, {}).get("statename", "STOPPED"),
                "pid": found.get(program.name, {}).get("pid", 0),
                "listens": program.listens,
            }
            for program in plan.programs()
        ]
        print(json.dumps({"healthy": healthy, "ports": plan.ports, "programs": rows}))
    else:
        print(_table(plan))
        print(f"healthy: {'yes' if healthy else 'no'}")
    return 0 if healthy else 1


def logs(plan: Plan, service: str, lines: int, *, follow: bool) -> int:
    """Print the last lines of the logs; with ``follow``, go on until interrupted."""
    names = [service] if service else [program.name for program in plan.programs()]
    for name in names:
        file = plan.logs / f"{name}.log"
        if not file.exists():
            print(f"{name}: no log; is it one of {[p.name for p in plan.programs()]}?")
            continue
        print(f"== {name}")
        print("\n".join(_tail(file, lines)), flush=True)
    if follow:
        files = [str(plan.logs / f"{name}.log") for name in names]
        os.execvp("tail", ["tail", "-n0", "-F", *files])  # noqa: S606 - replaces this process
    return 0


def _tail(file: Path, lines: int) -> list[str]:
    return file.read_text(errors="replace").splitlines()[-lines:]


def _problem(plan: Plan) -> str | None:
    """Return why the fleet does not answer yet, None when it does."""
    # Answers do not need validation, so the gateway is ready without it; the whole fleet is not.
    for path in ("/readyz", "/v1/validation/claims?limit=1"):
        try:
            answer = httpx.get(f"http://127.0.0.1:{plan.gateway_port}{path}", timeout=5)
        except httpx.TransportError as err:
            return f"gateway: {err}"
        if not answer.is_success:
            return str(answer.json().get("error", {}).get("message", answer.text))
    with grpc.insecure_channel(f"127.0.0.1:{plan.orchestrator_port}") as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as err:
            return f"orchestrator: {details_of(err).message}"
    return None


def _wait_healthy(plan: Plan) -> str | None:
    """Wait with a line for every change; returns why it gave up, None when all is healthy."""
    began = time.monotonic()
    said = ""
    pids: dict[str, set[int]] = {}
    while (passed := time.monotonic() - began) < HEALTHY_S:
        problem = _problem(plan)
        if problem is None:
            print(f"healthy after {passed:.1f} s", flush=True)
            return None
        if problem != said:
            print(f"  {passed:5.1f} s  waiting: {problem}", flush=True)
            said = problem
        for name, state in states(plan).items():
            pids.setdefault(name, set()).add(state["pid"])
            if len(pids[name] - {0}) >= DEATHS:
                return f"{name} keeps ending; see `make logs SERVICE={name}`"
        time.sleep(0.25)
    return f"not healthy after {HEALTHY_S:.0f} s ({said}); see `make logs`"


def _table(plan: Plan) -> str:
    found = states(plan)
    rows = [("process", "state", "listens", "what it is")]
    for program in plan.programs():
        state = found.get(program.name, {}).get("statename", "STOPPED")
        rows.append((program.name, state, program.listens, program.does))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _example(plan: Plan) -> str:
    body = '{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":'
    body += '"What is the capital of France?"}],"temperature":0}'
    return (
        f"\ntry:\n  curl -s http://127.0.0.1:{plan.gateway_port}/v1/chat/completions "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m bem_fleet.cli.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    commands.add_parser("down")
    commands.add_parser("status").add_argument("--json", action="store_true")
    log = commands.add_parser("logs")
    log.add_argument("--service", default="")
    log.add_argument("--lines", type=int, default=40)
    log.add_argument("--follow", action="store_true")
    arguments = parser.parse_args()
    plan = Plan()
    try:
        if arguments.command == "up":
            return up(plan)
        if arguments.command == "down":
            return down(plan)
        if arguments.command == "status":
            return status(plan, as_json=arguments.json)
        return logs(plan, arguments.service, arguments.lines, follow=arguments.follow)
    except NotReadyToStartError as err:
        print(err, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
