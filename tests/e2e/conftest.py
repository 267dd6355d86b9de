"""One local fleet for all end-to-end tests, on free ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
import redis as redis_client
from bem_fleet.cli.local.plan import Plan
from fleet.access.own_key import Metadata, bearer
from fleet.testing import free_port
from fleet.wire import AUTHORIZATION

from tests.support.stages import sort_by_stage

ROOT = Path(__file__).resolve().parents[2]
# Failures kill processes and stop the fleet, so they come behind what needs it; their audit test
# reads the records of all requests before. The fuzz test has a fleet of its own.
STAGES = ("clients", "canary", "failures", "fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of this folder into the order of the scenario."""
    sort_by_stage(items, Path(__file__).parent, STAGES)


@dataclass(frozen=True)
class Fleet:
    """A running local fleet.

    Attributes:
        environment: Variables that hold the fleet's ports and run directory.
    """

    environment: dict[str, str]

    @property
    def http(self) -> str:
        """Base URL of the gateway."""
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    @property
    def sidecar(self) -> str:
        """Address of the router's sidecar."""
        return f"127.0.0.1:{self.environment['ROUTER_PORT']}"

    @property
    def orchestrator(self) -> str:
        """Address of the orchestrator."""
        return f"127.0.0.1:{self.environment['ORCHESTRATOR_PORT']}"

    @property
    def operator(self) -> Metadata:
        """Metadata of an operator's call."""
        return ((AUTHORIZATION, bearer(self.operator_key_file.read_text().strip())),)

    @property
    def operator_key_file(self) -> Path:
        """File with the operator's key."""
        return Path(self.environment["RUN_DIR"]) / "operator.key"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the local fleet and return the completed process."""
        return subprocess.run(
            [sys.executable, "-m", "bem_fleet.cli.local", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def status(self) -> dict[str, Any]:
        """Return what ``make status JSON=1`` prints."""
        status: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return status

    def pid(self, name: str) -> int:
        """Return the process id of a program."""
        pids = {p["name"]: int(p["pid"]) for p in self.status()["programs"]}
        return pids[name]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The local fleet, started once and stopped at the end."""
    environment = {name: str(free_port()) for name in Plan().ports}
    environment["RUN_DIR"] = str(tmp_path_factory.mktemp("fleet"))
    running = Fleet(environment)
    up = running.command("up")
    assert up.returncode == 0, up.stdout + up.stderr + running.command("logs").stdout
    yield running
    running.command("down")


@pytest.fixture(scope="session")
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    """The unmodified OpenAI client."""
    with openai.OpenAI(base_url=f"{fleet.http}/v1", api_key="none", max_retries=0) as openai_client:
        yield openai_client


@pytest.fixture
def channel(fleet: Fleet) -> Iterator[grpc.Channel]:
    """A channel to the sidecar."""
    with grpc.insecure_channel(fleet.sidecar) as sidecar:
        yield sidecar


@pytest.fixture
def redis(fleet: Fleet) -> Iterator[Any]:
    """The fleet's Redis, with the login of its administrator."""
    ports = {"REDIS_PORT": int(fleet.environment["REDIS_PORT"])}
    plan = Plan(run=Path(fleet.environment["RUN_DIR"]), ports=ports)
    with redis_client.Redis.from_url(plan.redis_url("admin")) as connection:
        yield connection
