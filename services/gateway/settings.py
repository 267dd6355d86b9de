"""Gateway settings."""

import re
from pathlib import Path

from bem_fleet.feedback.limits import IntakeLimits
from fleet import wire
from fleet.settings import FleetSettings
from pydantic import Field, field_validator, model_validator

# Browsers send an origin in lower case and without a path.
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_MISSION_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class GatewaySettings(FleetSettings, env_prefix="BEM_GATEWAY_"):
    """Settings from ``BEM_GATEWAY_*``."""

    address: str = "127.0.0.1:8080"
    """Listen address of HTTP."""

    tls: Path | None = None
    """Folder with ``tls.crt`` and ``tls.key``; if set, the gateway serves HTTPS only."""

    missions: dict[str, str] = Field({"router": "127.0.0.1:50051"}, min_length=1)
    """gRPC target of each mission's sidecar by mission name, as a JSON object."""

    replicas: dict[str, str] = Field({})
    """Headless Service, ``host:port``, of each mission whose pods the gateway calls by a request's
    beginning, as a JSON object; a mission that is not in it is called as one address."""

    idle_missions: list[str] = Field([])
    """Missions that may have no pods, as a JSON list; a call waits until one is ready. The mission
    behind the OpenAI routes cannot be one."""

    wake_timeout_s: float = Field(120.0, gt=0)
    """Longest time that a call waits for the first pod of a mission, in seconds; then it is 503.
    The deadline of the call begins afterwards."""

    idle_after_s: float = Field(300.0, ge=0)
    """Time after its last call for which a mission that may have no pods keeps them, in seconds."""

    openai_mission: str = "router"
    """Mission behind the OpenAI routes; one of ``missions``."""

    validation_address: str = "127.0.0.1:50091"
    """gRPC target of the validation service."""

    fleet_address: str | None = None
    """gRPC target of the orchestrator, which sends the canary routes; unset: no canaries."""

    validation_timeout_s: float = Field(120.0, gt=0)
    """Deadline of one comparison in seconds, time in the queue included."""

    request_timeout_s: float = Field(300.0, gt=0)
    """Deadline of one call to a mission in seconds, sent along with it."""

    keep_alive_s: int = Field(75, ge=1)
    """Lifetime of an idle connection in seconds; longer than clients keep theirs in a pool."""

    max_body_bytes: int = Field(1024 * 1024, ge=1024)
    """Largest request body in bytes; a larger one is 413."""

    max_connections: int = Field(1024, ge=1)
    """Open connections; a new one replaces the one that has waited longest for its request."""

    max_header_bytes: int = Field(64 * 1024, ge=1024)
    """Largest request line with all headers in bytes; a larger one is 431."""

    header_timeout_s: float = Field(10.0, gt=0)
    """Longest time from the first byte of a request to the end of its headers, in seconds; 408."""

    body_timeout_s: float = Field(30.0, gt=0)
    """Longest time from the end of the headers to the end of the body, in seconds; 408."""

    stalled_reader_s: float = Field(10.0, gt=0)
    """Longest time in which a client reads nothing of a response that waits for it, in seconds;
    then the connection is closed and generation stops."""

    send_buffer_bytes: int = Field(32 * 1024, ge=4096)
    """Buffer of the operating system for each connection's responses, in bytes. A larger one lets
    a client that does not read take more of the engine's time."""

    choice_concurrency: int = Field(16, ge=1, le=1024)
    """Choices of one request that are computed at once; further ones wait for their turn."""

    cors_origins: list[str] = Field([])
    """Origins whose web pages may call the API, as a JSON list such as
    ``["https://chat.example.org"]``; ``["*"]`` allows all. Empty: none, and no CORS headers."""

    responses_ttl_s: int = Field(86_400, ge=0)
    """Time for which a response is kept for ``previous_response_id``, in seconds; 0 keeps none."""

    responses_kept: int = Field(1000, ge=1)
    """Most responses that are kept for one API key; the oldest makes room."""

    feedback_stream: str = wire.FEEDBACK_STREAM
    """Redis stream of feedback."""

    feedback_key_file: Path | None = None
    """File with the secret under which sessions and idempotency keys of feedback are stored as
    keyed hashes; unset: a random one, with which a restart forgets the idempotency keys."""

    feedback_rate: int = Field(600, ge=1)
    """Feedback that one user may send in an hour, with consent; more is 429."""

    feedback_backlog: int = Field(200_000, ge=1)
    """Feedback that may wait for its processor; more is 429."""

    metrics_pages: dict[str, str] = Field({})
    """``host:port/path`` of each process's metrics page by its name, as a JSON object, for the
    dashboard page."""

    prometheus_address: str | None = None
    """``host:port`` of the Prometheus whose alerts the dashboard page shows; unset: none."""

    results_folder: Path | None = None
    """Folder with ``gates.json`` and training runs, which the dashboard page shows; unset: none."""

    @property
    def feedback_limits(self) -> IntakeLimits:
        """Limits at which feedback is refused."""
        return IntakeLimits(rate=self.feedback_rate, backlog=self.feedback_backlog)

    @field_validator("missions")
    @classmethod
    def _names_are_valid(cls, missions: dict[str, str]) -> dict[str, str]:
        for name, target in missions.items():
            if not _MISSION_NAME.fullmatch(name):
                raise ValueError(
                    f"mission name {name!r}; a name is a lower-case letter, then letters, digits "
                    "and hyphens, at most 63; rename it"
                )
            if not target:
                raise ValueError(f"mission {name!r} has no gRPC target; give host:port")
        return missions

    @field_validator("replicas")
    @classmethod
    def _replicas_have_ports(cls, replicas: dict[str, str]) -> dict[str, str]:
        for name, target in replicas.items():
            host, _, port = target.rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 65536):
                raise ValueError(
                    f"replicas: {target!r} of mission {name!r} is not host:port; name its headless "
                    "Service and its port"
                )
        return replicas

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_valid(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins: {origin!r} is no origin; an origin is a scheme and a host, and "
                    "a port if it is not the default, such as https://chat.example.org; correct it"
                )
        return origins

    @model_validator(mode="after")
    def _openai_mission_exists(self) -> "GatewaySettings":
        if self.openai_mission not in self.missions:
            raise ValueError(
                f"openai_mission: {self.openai_mission!r} is not in missions; missions: "
                f"{', '.join(sorted(self.missions))}; name one of them"
            )
        if unknown := self.replicas.keys() - self.missions.keys():
            raise ValueError(
                f"replicas: {', '.join(sorted(unknown))} is not in missions; missions: "
                f"{', '.join(sorted(self.missions))}"
            )
        others = self.missions.keys() - {self.openai_mission}
        if unknown := set(self.idle_missions) - others:
            raise ValueError(
                f"idle_missions: {', '.join(sorted(unknown))} cannot be without pods; missions "
                f"that can: {', '.join(sorted(others)) or 'none'}; name some of them"
            )
        return self
