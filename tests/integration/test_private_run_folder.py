"""Run folder of the local fleet: another user of the machine reads nothing and connects nowhere."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from bem_fleet.cli.local.checks import NotReadyToStartError
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import start, states, stop
from bem_fleet.descriptors import Descriptor, default_ports, load_descriptors
from fleet.server import App
from fleet.server import start as start_server
from fleet.settings import FleetSettings
from fleet.testing import free_port

from tests.support.waiting import eventually

# Becomes another user, tries to open each file and to connect to each socket; prints what works.
_INTRUDER = """
import os, socket, stat, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
for path in sys.argv[3:]:
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            socket.socket(socket.AF_UNIX).connect(path)
        elif os.path.isdir(path):
            os.listdir(path)
        else:
            open(path, "rb").read(1)
    except OSError:
        continue
    print(path)
"""


def light_services() -> tuple[Descriptor, ...]:
    """Return validation, and the sidecar with its witness only: no model is loaded."""
    known = {one.name: one for one in load_descriptors()}
    safety = known["safety"]
    witness = tuple(each for each in safety.local.helpers if each.name == "witness")
    local = safety.local.model_copy(update={"helpers": witness})
    return (safety.model_copy(update={"local": local}), known["validation"])


def open_parent() -> Path:
    """Return a new folder that all users may enter."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    return parent


@pytest.fixture
async def plan() -> AsyncIterator[Plan]:
    """A running fleet of Redis, a witness and one service, in a parent that all may enter."""
    parent = open_parent()
    services = light_services()
    ports = {name: free_port() for name in default_ports(services)}
    made = Plan(run=parent / "run", services=services, ports=ports)
    # As an older version left it.
    (made.run / "redis").mkdir(parents=True)
    (made.run / "redis" / "appendonly.aof").touch(mode=0o644)
    try:
        previous = os.umask(0o022)
        start(made)
        os.umask(previous)
        await eventually(
            lambda: {each["statename"] for each in states(made).values()} == {"RUNNING"}, 90
        )
        yield made
    finally:
        stop(made)
        shutil.rmtree(parent)


def contents(run: Path) -> list[Path]:
    """Return the run folder and everything in it."""
    return [run, *sorted(run.rglob("*"))]


def intrude(paths: list[Path]) -> list[str]:
    """Return the paths that the user nobody can read or connect to."""
    nobody = pwd.getpwnam("nobody")
    command = [sys.executable, "-c", _INTRUDER, str(nobody.pw_uid), str(nobody.pw_gid)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=True)
    return done.stdout.split()


async def test_everything_is_private(plan: Plan) -> None:
    """Files have mode 0600, folders 0700, sockets neither for others: AOF, logs, passwords too."""

    async def mission(_settings: FleetSettings, _app: App) -> None:
        await asyncio.sleep(0)

    address = f"unix:{plan.sockets}/mission.sock"
    running = await start_server(FleetSettings(address=address, drain_s=0), mission, {})
    with redis.Redis.from_url(plan.redis_url("admin")) as client:
        client.xadd("bem:feedback", {"comment": "private"})
    await eventually(plan.audit_anchor.exists, 90)
    found = contents(plan.run)
    kinds = {
        path.relative_to(plan.run).as_posix(): stat.S_IFMT(path.stat().st_mode) for path in found
    }
    others = {path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077}
    reached = intrude(found) if os.geteuid() == 0 else []
    await running.stop()

    assert others == set()
    assert reached == []
    assert {"audit/anchor", "secrets/audit.key", "logs/witness.log"} <= set(kinds)
    assert {"redis/appendonly.aof", "redis/users.acl", "secrets/redis-admin"} <= set(kinds)
    assert {"logs/validation.log", "logs/supervisor.log", "supervisord.conf"} <= set(kinds)
    assert kinds["supervisor.sock"] == kinds["mission.sock"] == stat.S_IFSOCK


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_the_intruder_would_be_seen(plan: Plan) -> None:
    """The check above can fail: an open file in an open folder is found."""
    plan.run.chmod(0o755)
    open_file = plan.run / "open"
    open_file.write_text("x")
    open_file.chmod(0o644)

    assert str(open_file) in intrude(contents(plan.run))
    assert str(plan.run / "supervisor.sock") not in intrude(contents(plan.run))


async def test_redis_asks_everyone_for_a_login(plan: Plan) -> None:
    """Its port is open to all users of the machine: without a login it does nothing."""
    with redis.Redis(port=plan.ports["REDIS_PORT"]) as client:
        for command in (("PING",), ("GET", "bem:audit:head"), ("CONFIG", "GET", "*")):
            with pytest.raises(redis.AuthenticationError):
                client.execute_command(*command)


def command_lines(plan: Plan) -> list[str]:
    """Return the command line of each process."""
    pids = [state["pid"] for state in states(plan).values()]
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]


async def test_secrets_are_not_on_a_command_line(plan: Plan) -> None:
    """The list of processes shows no password: they are in environments and private files."""
    secrets = [path.read_text().strip() for path in plan.secrets.iterdir()]
    lines = command_lines(plan)

    assert len(secrets) >= 4
    assert not [line for line in lines for secret in secrets if secret in line]


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Who could have prepared the folder would own what is put into it."""
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "target", target_is_directory=True)
    linked = Plan(run=Path("/unused"), services=light_services())
    object.__setattr__(linked, "run", tmp_path / "run")

    with pytest.raises(NotReadyToStartError, match="RUN_DIR"):
        start(linked)


def test_a_foreign_supervisor_is_not_asked(tmp_path: Path) -> None:
    """A socket that another user has put in our place is as good as none."""
    made = Plan(run=tmp_path, services=light_services())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "supervisor.sock"))
        listener.listen()
        if os.geteuid() == 0:
            os.chown(tmp_path / "supervisor.sock", pwd.getpwnam("nobody").pw_uid, -1)
            assert states(made) == {}
            assert not stop(made)
