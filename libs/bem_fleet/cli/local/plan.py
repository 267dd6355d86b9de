"""Process plan of the local fleet: what runs on one machine, its ports and its settings.

The plan is a loop over the service descriptors. Every mission listens on a unix socket and has a
sidecar of its own at the mission's port; all sidecars share one scorer process.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fleet.embedded_redis import redis_command

from bem_fleet.checkout import ROOT
from bem_fleet.cli.local.credentials import Credentials
from bem_fleet.descriptors import (
    Descriptor,
    Helper,
    default_ports,
    expand,
    load_descriptors,
    missions,
    setting_texts,
)
from bem_fleet.redis_users import redis_users

TRACING = ("OTLP_ENDPOINT", "TRACE_RATIO")
"""Variables of the caller's environment that set tracing for all services."""
# sockaddr_un has room for 108 bytes; a longer path cannot be bound.
_MAX_SOCKET_PATH = 100


@dataclass(frozen=True)
class Program:
    """One process of the fleet.

    Attributes:
        name: Name of the process and of its log.
        command: Command line.
        environment: Environment variables that it needs.
        listens: Where it listens, for people.
        summary: What it is.
        stop_s: Longest time from SIGTERM to SIGKILL, in seconds.
        metrics: ``host:port/path`` of each of its metrics pages.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    listens: str
    summary: str
    stop_s: int = 40
    metrics: tuple[str, ...] = ()


def ports_from_environment(descriptors: tuple[Descriptor, ...]) -> dict[str, int]:
    """Return the TCP ports, where an environment variable of its name moves each."""
    return {
        name: int(os.environ.get(name) or port) for name, port in default_ports(descriptors).items()
    }


@dataclass(frozen=True)
class Plan:
    """All processes of one fleet.

    Attributes:
        run: Folder of sockets, logs and state; ``RUN_DIR`` moves it.
        services: Descriptors of the services.
        ports: TCP ports on loopback by the environment variable that moves each.
    """

    run: Path = field(
        default_factory=lambda: Path(os.environ.get("RUN_DIR") or ROOT / ".run").resolve()
    )
    services: tuple[Descriptor, ...] = field(default_factory=load_descriptors)
    ports: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ports = {**ports_from_environment(self.services), **self.ports}
        object.__setattr__(self, "ports", ports)

    @property
    def sockets(self) -> Path:
        """Folder of the unix sockets: the run folder, or a short one where its path is too long."""
        longest = max(("supervisor", *(one.name for one in self.services)), key=len)
        if len(str(self.run / f"{longest}.sock")) <= _MAX_SOCKET_PATH:
            return self.run
        mark = sha256(str(self.run).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"bem-fleet-{mark}"

    @property
    def secrets(self) -> Path:
        """Folder of passwords and keys."""
        return self.run / "secrets"

    @property
    def credentials(self) -> Credentials:
        """Passwords and keys; they exist after the first start."""
        return Credentials(self.secrets)

    @property
    def audit_anchor(self) -> Path:
        """File in which the witness keeps the head of the audit chain."""
        return self.run / "audit" / "anchor"

    @property
    def redis_acl(self) -> Path:
        """File with the users of Redis."""
        return self.run / "redis" / "users.acl"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.run / "logs"

    @property
    def operator_key(self) -> Path:
        """File with the operator's key."""
        return self.run / "operator.key"

    @property
    def keys_file(self) -> Path:
        """File with the hashes of all API keys; ``fleetctl keys`` edits it."""
        return self.run / "keys.yaml"

    @property
    def service_keys(self) -> Path:
        """Folder of the services' keys."""
        return self.run / "service-keys"

    def service_key(self, name: str) -> Path:
        """Return the file with a service's key for its calls to other services."""
        return self.service_keys / f"{name}.key"

    @property
    def mission_specs(self) -> Path:
        """Folder of the missions' specifications, which the orchestrator reads and writes."""
        return self.run / "missions"

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """Specification of each mission, without a canary, by the mission's name."""
        return {
            one.name: {
                "port": self.ports[f"{one.name.upper()}_PORT"],
                "grpcService": one.health_service,
                **one.local.mission,
            }
            for one in missions(self.services)
        }

    def address(self, name: str) -> str:
        """Return the loopback address of a service; of a mission, its sidecar's."""
        return f"127.0.0.1:{self.ports[f'{name.upper()}_PORT']}"

    def metrics_address(self, name: str) -> str:
        """Return the loopback address of a metrics page."""
        return f"127.0.0.1:{self.ports[f'{name.upper()}_METRICS_PORT']}"

    def redis_url(self, user: str) -> str:
        """Return the URL of the fleet's Redis with the login of a user."""
        login = f"{user}:{self.credentials.redis_password(user)}"
        return f"redis://{login}@{self.address('redis')}/0"

    @property
    def redis_rules(self) -> dict[str, str]:
        """Rules of each user of Redis by name."""
        return redis_users(self.services)

    def programs(self) -> list[Program]:
        """Return the processes in the order of their start."""
        redis = Program(
            "redis",
            redis_command(self.ports["REDIS_PORT"], self.run / "redis", self.redis_acl),
            {},
            self.address("redis"),
            "streams: feedback, audit, claims",
        )
        return [redis, *self._service_programs()]

    @property
    def metrics_pages(self) -> dict[str, str]:
        """``host:port/path`` of the metrics page of each process but the gateway."""
        pages = {}
        for one in missions(self.services):
            page = self.metrics_address(one.name)
            pages[one.name] = f"{page}/upstream/metrics"
            pages[f"{one.name}-sidecar"] = f"{page}/metrics"
        sidecar = next(one for one in self.services if one.kind == "sidecar")
        others = [one for one in self.services if one.kind == "control" and one.metrics_port]
        for name in (*(one.name for one in sidecar.local.helpers), *(one.name for one in others)):
            pages[name] = f"{self.metrics_address(name)}/metrics"
        return pages

    def scrape_targets(self) -> list[dict[str, Any]]:
        """Return every metrics page in the format of Prometheus' file-based discovery.

        The pages of a mission and its sidecar have one address; the label ``process`` keeps the
        series that both export apart.
        """
        names = {page: name for name, page in self.metrics_pages.items()}
        targets = []
        for program in self.programs():
            for page in program.metrics:
                address, _, path = page.partition("/")
                labels = {
                    "__metrics_path__": f"/{path}",
                    "namespace": "local",
                    "pod": program.name,
                    "process": names.get(page, program.name),
                }
                targets.append({"targets": [address], "labels": labels})
        return targets

    def _service_programs(self) -> Iterator[Program]:
        sidecar = next(one for one in self.services if one.kind == "sidecar")
        for helper in sidecar.local.helpers:
            yield self._helper_program(sidecar, helper)
        for one in missions(self.services):
            yield self._mission_program(one)
            yield self._sidecar_program(sidecar, one)
        for one in self.services:
            if one.kind == "control":
                yield self._control_program(one)

    def _mission_program(self, one: Descriptor) -> Program:
        """Return a mission: a unix socket and no network port."""
        own = {"ADDRESS": self._socket(one), **self._login(one)}
        return Program(
            one.name,
            _command(f"bem_fleet.services.{one.name}"),
            self._environment(one, own),
            "unix socket only",
            one.summary,
            one.local.stop_s,
        )

    def _sidecar_program(self, sidecar: Descriptor, mission: Descriptor) -> Program:
        """Return the sidecar of one mission."""
        address, pages = self.address(mission.name), self.metrics_address(mission.name)
        own = {
            "ADDRESS": address,
            "UPSTREAM": self._socket(mission),
            "PAGES_ADDRESS": pages,
            "KEYS_FILE": str(self.keys_file),
            **self._login(sidecar),
        }
        return Program(
            f"{mission.name}-sidecar",
            _command(f"bem_fleet.services.{sidecar.name}"),
            self._environment(sidecar, own),
            f"{address} gRPC, :{pages.rpartition(':')[2]} metrics",
            f"safety sidecar of {mission.name}",
            sidecar.local.stop_s,
            (f"{pages}/metrics", f"{pages}/upstream/metrics"),
        )

    def _helper_program(self, owner: Descriptor, helper: Helper) -> Program:
        """Return a process that all instances of its owner share."""
        page = self.metrics_address(helper.name)
        described = self._settings(setting_texts(helper.settings))
        own = {"PAGES_ADDRESS": page, **described, **self._login(helper)}
        environment = {f"{owner.env_prefix}{key}": value for key, value in own.items()}
        return Program(
            helper.name,
            _command(helper.module),
            environment,
            f"{'unix socket, ' if helper.has_socket else ''}:{page.rpartition(':')[2]} metrics",
            helper.summary,
            helper.stop_s,
            (f"{page}/metrics",),
        )

    def _control_program(self, one: Descriptor) -> Program:
        """Return a service with a network port of its own."""
        address = self.address(one.name)
        own = {
            "ADDRESS": address,
            "KEYS_FILE": str(self.keys_file),
            "SERVICE_KEY_FILE": str(self.service_key(one.name)),
            **self._login(one),
        }
        listens, page = f"{address} {'HTTP' if one.protocol == 'http' else 'gRPC'}", address
        if one.metrics_port:
            page = own["METRICS_ADDRESS"] = self.metrics_address(one.name)
            listens += f", :{page.rpartition(':')[2]} metrics"
        return Program(
            one.name,
            _command(f"bem_fleet.services.{one.name}"),
            self._environment(one, own),
            listens,
            one.summary,
            one.local.stop_s,
            (f"{page}/metrics",),
        )

    def _environment(self, one: Descriptor, own: dict[str, str]) -> dict[str, str]:
        """Return a service's environment: its descriptor's settings and its own addresses.

        A variable of the caller's environment wins over a descriptor's setting, so that
        ``BEM_ROUTER_CACHE=/tmp/models make up`` works; the addresses are always the plan's.
        ``OTLP_ENDPOINT`` and ``TRACE_RATIO`` of the caller's environment are those of all services.
        """
        described = self._settings(setting_texts({**one.settings, **one.local.settings}))
        described |= {name: os.environ[name] for name in TRACING if os.environ.get(name)}
        settings = {
            key: os.environ.get(f"{one.env_prefix}{key}") or value
            for key, value in described.items()
        }
        return {f"{one.env_prefix}{key}": value for key, value in {**settings, **own}.items()}

    def _settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {key: expand(value, self._resolve) for key, value in settings.items()}

    def _resolve(self, name: str, optional: bool) -> str:  # noqa: ARG002 - all services run here
        if name == "missions":
            return json.dumps({one.name: self.address(one.name) for one in missions(self.services)})
        if name in {"canaries", "replica_sets"}:
            return "{}"
        if name == "metrics_pages":
            return json.dumps(self.metrics_pages)
        folders = {
            "mission_specs": self.mission_specs,
            "run": self.sockets,
            "state": self.run,
            "secrets": self.secrets,
            "adapters": ROOT / "adapters",
            "cache": ROOT / ".cache" / "models",
            "results": ROOT / "results",
        }
        return str(folders[name]) if name in folders else self.address(name)

    def _login(self, one: Descriptor | Helper) -> dict[str, str]:
        """Return the setting with the login to Redis; empty where nothing there is needed."""
        return {"REDIS_URL": self.redis_url(one.name)} if one.redis else {}

    def _socket(self, one: Descriptor) -> str:
        return f"unix:{self.sockets / one.name}.sock"


def _command(module: str) -> list[str]:
    return [sys.executable, "-m", module]
