"""Process supervision of the local fleet through the ``supervisor`` library."""

import json
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from fleet.files import make_private_tree, private_umask, write_atomic, write_json_atomic
from supervisor.xmlrpc import SupervisorTransport

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.access_keys import prepare_keys
from bem_fleet.cli.local.checks import NotReadyToStartError
from bem_fleet.cli.local.plan import Plan, Program
from bem_fleet.services.orchestrator.local.merge_patch import apply_merge_patch

SCRAPE_TARGETS = "scrape-targets.json"
"""File in the run folder for Prometheus' ``file_sd_configs``."""

_SHUTDOWN_S = 30.0


def configuration(plan: Plan) -> str:
    """Return supervisord's configuration for the plan."""
    parser = RawConfigParser(default_section="")
    parser.optionxform = str  # type: ignore[method-assign,assignment] # keeps the case of names
    parser["unix_http_server"] = {
        "file": _escape(str(_socket(plan))),
        "chmod": "0700",
    }
    parser["supervisord"] = {
        "logfile": _escape(str(plan.logs / "supervisor.log")),
        "pidfile": _escape(str(plan.run / "supervisor.pid")),
        "directory": _escape(str(ROOT)),
        # Logs, the append-only file and sockets hold texts of users: theirs alone to read.
        "umask": "077",
    }
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    parser["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": factory}
    for order, program in enumerate(plan.programs()):
        parser[f"program:{program.name}"] = _section(plan, program, order)
    text = StringIO()
    parser.write(text)
    return text.getvalue()


def _section(plan: Plan, program: Program, order: int) -> dict[str, str]:
    """Return the options of one program; it is restarted without limit."""
    return {
        "command": " ".join(_quote(_escape(part)) for part in program.command),
        "environment": ",".join(
            f"{key}={_quote_value(_escape(value))}" for key, value in program.environment.items()
        ),
        "priority": str(order),
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "1000000",
        "stopwaitsecs": str(program.stop_s),
        "redirect_stderr": "true",
        "stdout_logfile": _escape(str(plan.logs / f"{program.name}.log")),
        "stdout_logfile_maxbytes": "20MB",
    }


def _socket(plan: Plan) -> Path:
    return plan.sockets / "supervisor.sock"


def _escape(text: str) -> str:
    # supervisor expands %(name)s in every option, so that a percent sign must be doubled.
    return text.replace("%", "%%")


def _quote(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text


def _quote_value(text: str) -> str:
    """Quote the value of an environment variable; supervisor's parser knows no escape character.

    Raises:
        ValueError: The text has both kinds of quotes.
    """
    if '"' not in text:
        return f'"{text}"'
    if "'" in text:
        raise ValueError(f"environment: {text!r} has both kinds of quotes; use only one of them")
    return f"'{text}'"


def start(plan: Plan) -> None:
    """Start supervisord, which starts everything else and detaches.

    Raises:
        NotReadyToStartError: The run folder cannot be made private.
    """
    try:
        for folder in (plan.run, plan.sockets):
            make_private_tree(folder)
    except PermissionError as err:
        raise NotReadyToStartError(f"RUN_DIR: {err}") from err
    with private_umask():
        file = _write_run_folder(plan)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)]
        subprocess.run(command, check=True)


def _write_run_folder(plan: Plan) -> Path:
    """Write credentials, missions and configuration; return supervisord's configuration file."""
    for folder in (plan.secrets, plan.run / "redis", plan.mission_specs, plan.logs):
        folder.mkdir(exist_ok=True)
    rules = plan.redis_rules
    plan.credentials.ensure(rules, {key for one in plan.services for key in one.keys})
    write_atomic(plan.redis_acl, plan.credentials.redis_acl(rules))
    prepare_keys(plan)
    for name, spec in plan.specs.items():
        _update_spec(plan.mission_specs / f"{name}.json", name, spec)
    (plan.run / SCRAPE_TARGETS).write_text(json.dumps(plan.scrape_targets(), indent=1))
    file = plan.run / "supervisord.conf"
    file.write_text(configuration(plan))
    return file


def _update_spec(file: Path, name: str, spec: dict[str, Any]) -> None:
    """Merge a mission's specification into its file; canaries and promotions stay in it."""
    old = json.loads(file.read_text()) if file.exists() else {"metadata": {"name": name}}
    made = apply_merge_patch(old, {"spec": spec})
    if made != old:
        write_json_atomic(file, made)


@contextmanager
def control(plan: Plan) -> Iterator[Any]:
    """Yield supervisord's control interface; its connection is closed at the end."""
    transport = SupervisorTransport(serverurl=f"unix://{_socket(plan)}")
    try:
        yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    finally:
        transport.close()


def states(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return each process's state by name; empty when supervisord does not run."""
    if not _is_own(_socket(plan)):
        return {}
    try:
        with control(plan) as supervisor:
            return {entry["name"]: entry for entry in supervisor.getAllProcessInfo()}
    except (OSError, xmlrpc.client.Fault):
        return {}


def _is_own(path: Path) -> bool:
    """Return whether a path exists and is this user's; another's socket must not be asked."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def stop(plan: Plan) -> bool:
    """Stop everything in reverse order, each draining; False when nothing ran."""
    if not states(plan):
        return False
    with control(plan) as supervisor:
        for program in reversed(plan.programs()):
            try:
                supervisor.stopProcess(program.name)
            except xmlrpc.client.Fault:
                continue  # it was not running
        supervisor.shutdown()
    limit = time.monotonic() + _SHUTDOWN_S
    while states(plan) and time.monotonic() < limit:
        time.sleep(0.1)
    return True
