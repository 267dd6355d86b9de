"""Service descriptors: ``services/<name>/service.yaml``, the one place that describes a service.

The local fleet, the chart's values, the image build, dashboards, alerts and documentation tables
are loops over these files, so that adding a service edits no list elsewhere.

A setting may refer to another part of the fleet as ``${name}``:

====================  ==============================================================
reference             value
====================  ==============================================================
``${<service>}``      address of that service (of a mission: of its sidecar)
``${<service>?}``     the same, or empty where the service is not enabled
``${missions}``       JSON object from each mission's name to its sidecar's address
``${canaries}``       the same to the address of its canary's own pods; none on one machine
``${replica_sets}``   JSON object from each mission whose pods the gateway calls to its headless
                      Service; none on one machine
``${mission_specs}``  folder of the ``Mission`` specifications on one machine
``${run}``            folder of the sockets on one machine
``${state}``          folder of what outlives a restart on one machine
``${secrets}``        folder of passwords and keys on one machine
``${adapters}``       folder of the adapters
``${cache}``          folder of the prepared base models
``${results}``        folder of the measured results on one machine
``${metrics_pages}``  JSON object from each process's name to its metrics page on one machine
====================  ==============================================================
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from fleet.redis_acl import RedisAccess
from pydantic import Field, ValidationError, model_validator

from bem_fleet.checkout import ROOT
from bem_fleet.described_monitoring import Alert, Dashboard, Recording, Strict

FILE = "service.yaml"
KEYWORDS = (
    *("missions", "canaries", "replica_sets", "mission_specs", "run", "state", "secrets"),
    *("adapters", "cache", "results", "metrics_pages"),
)
"""References that name no service."""

OUTSIDE = ("*", "inference-test")
"""Clients that are no service: anyone, and the pod of ``helm test``."""

REDIS_PORT = 6379
_REFERENCE = re.compile(r"\$\{([a-z][a-z0-9_-]*)(\??)\}")
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$", max_length=40)]
_Port = Annotated[int, Field(ge=1, le=65535)]
_Settings = dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], str | int | float | bool]


class DescriptorError(ValueError):
    """A descriptor that cannot be used; the message names file and field."""


class Label(Strict):
    """Image labels of the allocation table.

    Attributes:
        mission: Label ``MISSION``, such as ``mission_a``.
        gpu_memory: Label ``GPU_MEMORY``, such as ``80GB``.
    """

    mission: str = Field("none", pattern=r"^(none|mission_[a-z0-9]+)$")
    gpu_memory: str = Field("0GB", pattern=r"^[0-9]+GB$", alias="gpuMemory")


class Helper(Strict):
    """A process that all instances of a service share on one machine.

    Attributes:
        name: Name of the process and of its log.
        module: Python module that runs.
        summary: What it is, in one line without a full stop.
        metrics_port: Default TCP port of its metrics page.
        settings: Settings, with the prefix of the service that it helps.
        redis: Access of its user in Redis; unset for none.
        stop_s: Longest time from SIGTERM to SIGKILL, in seconds.
    """

    name: _Name
    module: str = Field(min_length=1)
    summary: str = Field(min_length=1, max_length=120, pattern=r"[^.]$")
    metrics_port: _Port = Field(alias="metricsPort")
    settings: _Settings = Field({})
    redis: RedisAccess | None = None
    stop_s: int = Field(10, ge=1, alias="stopSeconds")

    @property
    def has_socket(self) -> bool:
        """Whether it listens on a unix socket."""
        return any(key.endswith("SOCKET") for key in self.settings)


class Local(Strict):
    """What differs on one machine.

    Attributes:
        settings: Settings beside the common ones.
        mission: Fields of the ``Mission``, such as ``model``; in a cluster the chart's values.
        helpers: Processes that all instances of the service share.
        stop_s: Longest time from SIGTERM to SIGKILL, in seconds.
    """

    settings: _Settings = Field({})
    mission: dict[str, Any] = Field({})
    helpers: tuple[Helper, ...] = ()
    stop_s: int = Field(40, ge=1, alias="stopSeconds")


class Descriptor(Strict):
    """Description of one service.

    Attributes:
        name: Folder, import name, Kubernetes name, image and prefix of settings and metrics.
        kind: ``mission`` behind a sidecar, ``control`` service, or the ``sidecar`` itself.
        summary: What it is, in one line without a full stop.
        proto: Full name of its gRPC service; empty for HTTP.
        protocol: What its port speaks.
        port: Default TCP port; of a mission, its sidecar's port. A sidecar has none.
        metrics_port: Default TCP port of the metrics page on one machine; unset where ``port``
            serves it too. Of a mission, its sidecar's page.
        health: Name in ``grpc.health.v1`` that tells readiness; ``proto`` unless stated.
        label: Image labels.
        lock: Lock of ``requirements/`` that its image installs; its own name unless stated.
        adapters: Adapters that its image holds: ``all``, ``none``, or one folder of ``adapters/``;
            a mission has all unless stated.
        settings: ``KEY: value`` for ``BEM_<NAME>_KEY``, with references.
        local: What differs on one machine.
        chart: What differs in the chart: any keys of the chart's service block.
        clients: Services that may call it.
        key_role: Role of the key with which a control service calls others.
        redis: Access of its user in Redis; unset for a service that needs none and gets no login.
        keys: Secret keys that it reads from ``${secrets}/<name>.key``, made once in random.
        priority: Priority class of its pods.
        resources: Requests and limits of its container, as Kubernetes writes them.
        dashboards: Dashboards, or parts of shared ones.
        recordings: Recording rules.
        alerts: Alerting rules.
        gates: File in its folder with its acceptance gates; empty for none.
    """

    name: _Name
    kind: Literal["mission", "control", "sidecar"]
    summary: str = Field(min_length=1, max_length=120, pattern=r"[^.]$")
    proto: str = Field("", pattern=r"^([a-z0-9_.]+\.[A-Z][A-Za-z0-9]+)?$")
    protocol: Literal["grpc", "http"] = "grpc"
    port: _Port | None = None
    metrics_port: _Port | None = Field(None, alias="metricsPort")
    health: str = ""
    label: Label = Label()
    lock: str = Field("", pattern=r"^[a-z0-9-]*$")
    adapters: str = Field("", pattern=r"^[a-z0-9-]*$")
    settings: _Settings = Field({})
    local: Local = Local()
    chart: dict[str, Any] = Field({})
    clients: tuple[str, ...] = ()
    key_role: Literal["service", "operator"] = Field("service", alias="keyRole")
    redis: RedisAccess | None = None
    keys: tuple[_Name, ...] = ()
    priority: Literal["critical", "high", "medium", "low"] = "high"
    resources: dict[str, dict[str, str | int]] = Field({})
    dashboards: tuple[Dashboard, ...] = ()
    recordings: tuple[Recording, ...] = ()
    alerts: tuple[Alert, ...] = ()
    gates: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Descriptor":
        if (self.kind == "sidecar") != (self.port is None):
            raise ValueError("port: every service has one, except the sidecar")
        if self.kind == "mission" and not (self.proto and self.metrics_port):
            raise ValueError("proto and metricsPort: a mission needs both")
        return self

    @property
    def has_sidecar(self) -> bool:
        """Whether its only network port is a safety sidecar's."""
        return self.kind == "mission"

    @property
    def health_service(self) -> str:
        """Name in ``grpc.health.v1`` that tells readiness."""
        return self.health or self.proto

    @property
    def image_lock(self) -> str:
        """Lock of ``requirements/`` that its image installs."""
        return self.lock or self.name

    @property
    def image_adapters(self) -> str:
        """Adapters that its image holds: ``all``, ``none``, or one folder of ``adapters/``."""
        return self.adapters or ("all" if self.kind == "mission" else "none")

    @property
    def env_prefix(self) -> str:
        """Prefix of its settings in the environment."""
        return f"BEM_{self.name.upper()}_"

    @cached_property
    def references(self) -> set[str]:
        """Names that the settings refer to."""
        local = [self.local.settings, *(helper.settings for helper in self.local.helpers)]
        settings = (self.settings, *local, self.chart.get("settings", {}))
        texts = [str(value) for one in settings for value in one.values()]
        return {found[1] for text in texts for found in _REFERENCE.finditer(text)}


def read_descriptor(file: Path) -> Descriptor:
    """Read one descriptor.

    Raises:
        DescriptorError: The file is no descriptor; the message names the fields.
    """
    where = "/".join(file.parts[-3:])
    try:
        given = yaml.load(file.read_text(), yaml.CSafeLoader)  # eight times as fast as safe_load
        descriptor = Descriptor.model_validate(given)
    except (OSError, yaml.YAMLError) as err:
        raise DescriptorError(f"{where}: {err}") from err
    except ValidationError as err:
        problems = [
            f"{'.'.join(map(str, one['loc'])) or 'descriptor'}: {one['msg']}"
            for one in err.errors()
        ]
        raise DescriptorError(f"{where}: {'; '.join(problems)}") from err
    if descriptor.name != file.parent.name:
        raise DescriptorError(
            f"{where}: name: {descriptor.name!r} is not the folder's name {file.parent.name!r}"
        )
    if descriptor.gates and not (file.parent / descriptor.gates).is_file():
        raise DescriptorError(f"{where}: gates: there is no file {descriptor.gates!r} beside it")
    return descriptor


def load_descriptors(root: Path = ROOT) -> tuple[Descriptor, ...]:
    """Read all descriptors of a checkout: missions, the sidecar, then control services by name.

    Raises:
        DescriptorError: A file is no descriptor, two services have one port, or a client or a
            reference names no service.
    """
    order = ("mission", "sidecar", "control")
    found = [read_descriptor(file) for file in sorted((root / "services").glob(f"*/{FILE}"))]
    found.sort(key=lambda one: (order.index(one.kind), one.name))
    _check(found)
    return tuple(found)


def missions(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """Return the missions among the descriptors."""
    return [one for one in descriptors if one.kind == "mission"]


def default_ports(descriptors: Iterable[Descriptor]) -> dict[str, int]:
    """Return the default TCP ports of one machine by the environment variable that moves each."""
    ports = {"REDIS_PORT": REDIS_PORT}
    for one in descriptors:
        name = one.name.upper()
        if one.port:
            ports[f"{name}_PORT"] = one.port
        if one.metrics_port:
            ports[f"{name}_METRICS_PORT"] = one.metrics_port
        for helper in one.local.helpers:
            ports[f"{helper.name.upper()}_METRICS_PORT"] = helper.metrics_port
    return ports


def expand(text: str, resolve: Callable[[str, bool], str]) -> str:
    """Replace the references of a setting.

    Args:
        text: Value of the setting.
        resolve: Returns the value of a reference from its name and whether it is optional.
    """
    return _REFERENCE.sub(lambda found: resolve(found[1], bool(found[2])), text)


def _check(found: Iterable[Descriptor]) -> None:
    """Reject names and ports that do not fit together."""
    descriptors = {one.name: one for one in found}
    ports: dict[int, str] = {}
    for one in descriptors.values():
        where = f"services/{one.name}/{FILE}"
        helpers = [helper.metrics_port for helper in one.local.helpers]
        for port in (one.port, one.metrics_port, *helpers):
            if port is not None and (other := ports.setdefault(port, one.name)) != one.name:
                raise DescriptorError(f"{where}: port: {port} is a port of {other} already")
        _check_names(where, "clients", one.clients, {*descriptors, *OUTSIDE})
        _check_names(where, "settings", one.references, {*descriptors, *KEYWORDS})


def _check_names(where: str, field: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise DescriptorError(
                f"{where}: {field}: {name!r} is no service; known are {', '.join(sorted(known))}"
            )


def setting_texts(settings: Mapping[str, str | float | bool]) -> dict[str, str]:
    """Return settings as the texts of environment variables."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in settings.items()
    }
