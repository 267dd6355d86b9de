"""What runs on one machine, where it listens and how it is started."""

import os
import sys
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from bemfleet.router.v1 import router_pb2 as pb
from fleet.embedded_redis import redis_command

from bem_fleet.checkout import ROOT

# sockaddr_un holds 108 bytes; a longer path cannot be bound.
_LONGEST_SOCKET = 100


def _port(name: str, default: int) -> int:
    return int(os.environ.get(f"{name}_PORT") or default)


@dataclass(frozen=True)
class Program:
    """One process of the fleet.

    Attributes:
        name: Also the name of its log.
        command: What runs.
        environment: Its settings.
        listens: Where, for people.
        does: What it is for.
        stop_s: Longest time that it may take to finish what runs.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    listens: str
    does: str
    stop_s: int = 40


@dataclass(frozen=True)
class Plan:
    """All processes; every port can be set by ``<NAME>_PORT``, the folder by ``RUN_DIR``."""

    run: Path = field(
        default_factory=lambda: Path(os.environ.get("RUN_DIR") or ROOT / ".run").resolve()
    )
    gateway_port: int = field(default_factory=lambda: _port("GATEWAY", 8080))
    router_port: int = field(default_factory=lambda: _port("ROUTER", 50051))
    redis_port: int = field(default_factory=lambda: _port("REDIS", 6379))
    metrics_port: int = field(default_factory=lambda: _port("SIDECAR_METRICS", 9464))
    validation_port: int = field(default_factory=lambda: _port("VALIDATION", 50091))
    orchestrator_port: int = field(default_factory=lambda: _port("ORCHESTRATOR", 50101))

    @property
    def ports(self) -> dict[str, int]:
        """The TCP ports on loopback by the variable that moves each."""
        return {
            "GATEWAY_PORT": self.gateway_port,
            "ROUTER_PORT": self.router_port,
            "REDIS_PORT": self.redis_port,
            "SIDECAR_METRICS_PORT": self.metrics_port,
            "VALIDATION_PORT": self.validation_port,
            "ORCHESTRATOR_PORT": self.orchestrator_port,
        }

    @property
    def sockets(self) -> Path:
        """Folder of the unix sockets: the run folder, or a short one where its path is too long."""
        if len(str(self.run / "supervisor.sock")) <= _LONGEST_SOCKET:
            return self.run
        mark = sha256(str(self.run).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"bem-fleet-{mark}"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.run / "logs"

    @property
    def missions(self) -> dict[str, dict[str, Any]]:
        """What each mission's file says before anything is tried, by its name."""
        router = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
        return {"router": {"port": self.router_port, "model": "passage-qa", "grpcService": router}}

    def programs(self) -> list[Program]:
        """Return the processes in the order of their start."""
        redis = Program(
            "redis",
            redis_command(self.redis_port, self.run / "redis"),
            {},
            f"127.0.0.1:{self.redis_port}",
            "streams: feedback, audit, claims",
        )
        return [redis, *self._mission_programs(), *self._control_programs()]

    @property
    def _redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/0"

    def _mission_programs(self) -> list[Program]:
        """Return each mission and its sidecar."""
        mission = f"unix:{self.sockets / 'router.sock'}"
        return [
            _service(
                "router",
                "unix socket only",
                "mission A: base model and adapters",
                ADDRESS=mission,
                REDIS_URL=self._redis_url,
                ADAPTERS=str(ROOT / "adapters"),
                CACHE=str(ROOT / ".cache" / "models"),
            ),
            _service(
                "safety",
                f"127.0.0.1:{self.router_port} gRPC, :{self.metrics_port} metrics",
                "sidecar: the only way into the router",
                ADDRESS=f"127.0.0.1:{self.router_port}",
                UPSTREAM=mission,
                REDIS_URL=self._redis_url,
                PAGES_ADDRESS=f"127.0.0.1:{self.metrics_port}",
            ),
        ]

    def _control_programs(self) -> list[Program]:
        """Return what decides and what people reach."""
        validation = f"127.0.0.1:{self.validation_port}"
        orchestrator = f"127.0.0.1:{self.orchestrator_port}"
        return [
            _service(
                "validation",
                f"{validation} gRPC",
                "claims: comparisons, false discovery rate, gates",
                ADDRESS=validation,
                REDIS_URL=self._redis_url,
            ),
            _service(
                "orchestrator",
                f"{orchestrator} gRPC",
                "canaries of adapters: fleetctl canary",
                ADDRESS=orchestrator,
                MISSIONS_DIR=str(self.run / "missions"),
                MISSION_ADDRESS="127.0.0.1:{port}",
                VALIDATION_ADDRESS=validation,
            ),
            _service(
                "gateway",
                f"127.0.0.1:{self.gateway_port} HTTP",
                "OpenAI-compatible API, feedback, validation",
                ADDRESS=f"127.0.0.1:{self.gateway_port}",
                ROUTER_ADDRESS=f"127.0.0.1:{self.router_port}",
                VALIDATION_ADDRESS=validation,
                FLEET_ADDRESS=orchestrator,
                REDIS_URL=self._redis_url,
            ),
        ]


def _service(name: str, listens: str, does: str, **settings: str) -> Program:
    """Return a service with its settings, which it reads as ``BEM_<NAME>_*``."""
    environment = {f"BEM_{name.upper()}_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", f"bem_fleet.services.{name}"]
    return Program(name, command, environment, listens, does)
