"""A local fleet with a tiny model in a folder of its own, and its processes by their ids."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bem.testing import tiny_backbone
from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.plan import Plan
from bem_fleet.descriptors import missions
from fleet.testing import free_port

MODEL = "tiny"
OPERATOR_KEY = "operator.key"
CONTROL_PLANE = ("validation", "orchestrator")
# Settings that name trained artifacts of the packaged model, which do not fit the tiny one.
_ARTIFACTS = {
    "router": ("SAFETY", "POLICY"),
    "memory": ("MODULES",),
    "online": ("BANK",),
    "sep": ("FRONT",),
}


@dataclass(frozen=True)
class TinyFleet:
    """A running local fleet.

    Attributes:
        environment: Variables that hold the fleet's ports, run folder and model.
    """

    environment: Mapping[str, str]

    @property
    def http(self) -> str:
        """Base URL of the gateway."""
        return f"http://127.0.0.1:{self.environment['GATEWAY_PORT']}"

    @property
    def grpc_servers(self) -> dict[str, str]:
        """Addresses of the gRPC servers by name; a mission's own socket is behind its sidecar."""
        plan = Plan(run=Path(self.environment["RUN_DIR"]), ports=self._ports)
        found = {}
        for one in missions(plan.services):
            found[f"{one.name} sidecar"] = plan.address(one.name)
            found[one.name] = f"unix:{plan.sockets}/{one.name}.sock"
        return {**found, **{name: plan.address(name) for name in CONTROL_PLANE}}

    @property
    def operator_key(self) -> str:
        """Key that the fleet wrote for its operator; empty if it wrote none."""
        file = Path(self.environment["RUN_DIR"]) / OPERATOR_KEY
        return file.read_text().strip() if file.is_file() else ""

    @property
    def _ports(self) -> dict[str, int]:
        return {name: int(port) for name, port in self.environment.items() if name.endswith("PORT")}

    def processes(self) -> dict[str, int]:
        """Return the process ids by program; a changed id is a restart."""
        status = json.loads(self.command("status", "--json").stdout)
        return {program["name"]: int(program["pid"]) for program in status["programs"]}

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


@contextmanager
def tiny_fleet(folder: Path) -> Iterator[TinyFleet]:
    """Start a fleet with its state below ``folder``, and stop it at the end.

    Raises:
        RuntimeError: The fleet does not start.
    """
    backbone = tiny_backbone()
    backbone.model.save_pretrained(folder / MODEL)
    backbone.tokenizer.save_pretrained(folder / MODEL)
    (folder / "adapters").mkdir()
    plan = Plan()
    environment = {name: str(free_port()) for name in plan.ports}
    for one in missions(plan.services):
        environment |= _mission_settings(one.name, folder)
    fleet = TinyFleet({**environment, "RUN_DIR": str(folder / "run")})
    try:
        up = fleet.command("up")
        if up.returncode:
            logs = fleet.command("logs").stdout[-4_000:]
            raise RuntimeError(f"the fleet does not start: {up.stdout}{up.stderr}{logs}")
        yield fleet
    finally:
        fleet.command("down")


def _mission_settings(name: str, folder: Path) -> dict[str, str]:
    settings = {
        "BACKBONE": str(folder / MODEL),
        "ADAPTER_FOLDER": str(folder / "adapters"),
        "CONTEXT_TOKENS": "512",
        "FIRST_LAYER": "2",
        "FEATURE_LAYER": "1",
        **dict.fromkeys(_ARTIFACTS.get(name, ()), str(folder / "none")),
    }
    return {f"BEM_{name.upper()}_{setting}": value for setting, value in settings.items()}
