"""Starting and stopping through the ``supervisor`` library."""

import json
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from fleet.files import write_json_atomic
from supervisor.xmlrpc import SupervisorTransport

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan
from bem_fleet.services.orchestrator.local.merge_patch import apply_merge_patch


def configuration(plan: Plan) -> str:
    """Return supervisord's configuration for the plan."""
    socket = plan.sockets / "supervisor.sock"
    lines = [
        "[unix_http_server]",
        f"file={socket}",
        "chmod=0700",
        "[supervisord]",
        f"logfile={plan.logs / 'supervisor.log'}",
        f"pidfile={plan.run / 'supervisor.pid'}",
        f"directory={ROOT}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for order, program in enumerate(plan.programs()):
        environment = ",".join(
            f'{key}="{_escape(value)}"' for key, value in program.environment.items()
        )
        lines += [
            f"[program:{program.name}]",
            f"command={' '.join(_quote(_escape(part)) for part in program.command)}",
            f"environment={environment}",
            f"priority={order}",
            "autorestart=true",
            "startsecs=1",
            "startretries=1000000",
            f"stopwaitsecs={program.stop_s}",
            "redirect_stderr=true",
            f"stdout_logfile={plan.logs / program.name}.log",
            "stdout_logfile_maxbytes=20MB",
        ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text


def start(plan: Plan) -> None:
    """Start supervisord, which starts everything else and detaches."""
    missions = plan.run / "missions"
    for folder in (plan.run / "redis", missions, plan.logs, plan.sockets):
        folder.mkdir(parents=True, exist_ok=True)
    for name, spec in plan.missions.items():
        _place(missions / f"{name}.json", name, spec)
    file = plan.run / "supervisord.conf"
    file.write_text(configuration(plan))
    subprocess.run([sys.executable, "-m", "supervisor.supervisord", "-c", str(file)], check=True)


def _place(file: Path, name: str, spec: dict[str, Any]) -> None:
    """Tell a mission's file where the mission is now; canaries and promotions stay in it."""
    old = json.loads(file.read_text()) if file.exists() else {"metadata": {"name": name}}
    made = apply_merge_patch(old, {"spec": spec})
    if made != old:
        write_json_atomic(file, made)


def remote(plan: Plan) -> Any:
    """Return supervisord's control interface."""
    transport = SupervisorTransport(serverurl=f"unix://{plan.sockets / 'supervisor.sock'}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def states(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return each process's state by name; empty when supervisord does not run."""
    try:
        return {entry["name"]: entry for entry in remote(plan).getAllProcessInfo()}
    except (OSError, xmlrpc.client.Fault):
        return {}


def stop(plan: Plan) -> bool:
    """Stop everything in reverse order, each draining; False when nothing ran."""
    if not states(plan):
        return False
    control = remote(plan)
    for program in reversed(plan.programs()):
        try:
            control.stopProcess(program.name)
        except xmlrpc.client.Fault:
            continue  # it was not running
    control.shutdown()
    limit = time.monotonic() + 30
    while states(plan) and time.monotonic() < limit:
        time.sleep(0.1)
    return True
