"""Common settings of all services, read from the environment."""

from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fleet.wire import AUDIT_STREAM

PREFIX = "BEM_"
# "ROUTR" is meant to be "ROUTER"; two different services are never as similar.
_SAME_SERVICE = 0.8


class TlsMode(StrEnum):
    """TLS of gRPC between pods."""

    OFF = "off"
    SERVER = "server"
    MUTUAL = "mutual"


class FleetSettings(BaseSettings):
    """Settings from environment variables; a subclass sets the prefix, such as ``BEM_ROUTER_``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_ignore_empty=True)

    address: str = Field("127.0.0.1:50051", min_length=1)
    """Listen address of gRPC: ``host:port``, or ``unix:/path`` for a process without a port."""

    tls_mode: TlsMode = TlsMode.OFF
    """TLS of gRPC over TCP, as server and as client: ``off``; ``server``: servers show a
    certificate; ``mutual``: clients must show one too. Unix sockets are always plain."""

    tls_folder: Path | None = None
    """Folder with ``tls.crt``, ``tls.key`` and ``ca.crt``, reloaded when they change."""

    health_address: str | None = None
    """``host:port`` that answers ``grpc.health.v1.Health/Check`` without TLS, and nothing else:
    kubelets probe without it; unset: none."""

    metrics_address: str | None = None
    """``host:port`` of the Prometheus page; unset if a sidecar is scraped instead."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis of the fleet, in redis-py's URL form; ``rediss://`` takes ``ssl_*`` options."""

    otlp_endpoint: str | None = Field(None, pattern=r"^(https?://)?[^\s/@]+:[0-9]{1,5}$")
    """OpenTelemetry collector that takes traces by OTLP over gRPC: ``host:port``, or
    ``https://host:port`` for TLS; unset: no traces."""

    trace_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the traces that begin here which is recorded, in [0, 1]; a trace that a caller began
    is recorded if the caller records it."""

    drain_s: float = Field(30.0, ge=0)
    """Longest wait for requests in flight after SIGTERM, in seconds."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severe level that is logged."""

    max_message_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """Largest accepted gRPC message, in bytes; a larger one is RESOURCE_EXHAUSTED."""

    max_metadata_bytes: int = Field(16 * 1024, ge=1024)
    """Largest metadata of a gRPC call, in bytes; a larger one is RESOURCE_EXHAUSTED."""

    max_concurrent_calls: int = Field(1024, ge=1)
    """gRPC calls that are open at once; a further one is RESOURCE_EXHAUSTED."""

    idle_connection_s: float = Field(300.0, gt=0)
    """Lifetime of a gRPC connection without a call, in seconds; clients connect again by
    themselves."""

    stalled_stream_s: float = Field(20.0, gt=0)
    """Longest time in which a client reads nothing of a gRPC stream that waits for it, in seconds;
    then the call is cancelled and its work ends."""

    reflection: bool = True
    """Whether gRPC reflection is served; the sidecar and the gateway need it of a mission."""

    keys_file: Path | None = None
    """File with the hashes of API keys, reloaded when it changes; unset: nobody is an operator."""

    service_key_file: Path | None = None
    """File with the key that calls to other services carry."""

    audit_stream: str = AUDIT_STREAM
    """Redis stream of the audit records."""

    audit_key_file: Path | None = None
    """File with the secrets of the audit chain's HMAC, one a line, of which the first signs; unset:
    the chain is a plain hash, which whoever writes to Redis can forge."""

    @model_validator(mode="after")
    def _tls_has_a_certificate(self) -> Self:
        if self.tls_mode is not TlsMode.OFF and self.tls_folder is None:
            raise ValueError(
                f"tls_folder: missing; tls_mode {self.tls_mode} needs a certificate; name the "
                "folder with tls.crt, tls.key and ca.crt"
            )
        return self


def variable_names(settings_type: type[FleetSettings]) -> list[str]:
    """Return the environment variables that a service's settings are read from."""
    prefix = settings_type.model_config.get("env_prefix", "")
    return [f"{prefix}{name.upper()}" for name in settings_type.model_fields]


def unknown_variables(environment: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Return variables that look like settings and are none, each with the nearest known name.

    Args:
        environment: Names of environment variables.
        known: Names of all settings that exist.
    """
    candidates = sorted(one for one in environment if one.startswith(PREFIX) and one not in known)
    return {one: max(known, key=lambda name: _likeness(one, name)) for one in candidates}


def unknown_variables_of(
    environment: Iterable[str], settings_type: type[FleetSettings]
) -> dict[str, str]:
    """Return the unknown variables that are meant for one service, misspelt prefixes included.

    Args:
        environment: Names of environment variables; those of other services are not reported.
        settings_type: Settings of the service.
    """
    prefix = str(settings_type.model_config.get("env_prefix", ""))
    meant = [one for one in environment if _likeness(_head(one), prefix) >= _SAME_SERVICE]
    return unknown_variables(meant, variable_names(settings_type))


def _head(name: str) -> str:
    """Return ``BEM_<NAME>_`` of a variable."""
    return "_".join([*name.split("_")[:2], ""])


def _likeness(one: str, other: str) -> float:
    # Every name begins alike; that says nothing.
    return SequenceMatcher(None, one.removeprefix(PREFIX), other.removeprefix(PREFIX)).ratio()
