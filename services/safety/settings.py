"""Settings of the safety sidecar and of the shared scorer server."""

from pathlib import Path

from bem_fleet.guard.policy import DEFAULT_POLICY
from fleet.settings import FleetSettings, TlsMode
from pydantic import Field, model_validator


class SafetySettings(FleetSettings, env_prefix="BEM_SAFETY_"):
    """Read from ``BEM_SAFETY_*``."""

    upstream: str = "unix:.run/router.sock"
    """Address of the mission, ``host:port`` or ``unix:/path``; with TLS a unix socket only."""

    pages_address: str | None = None
    """``host:port`` of ``/metrics`` (the sidecar's) and ``/upstream/metrics`` (the mission's)."""

    max_message_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """Largest message received; above the text limit, so that errors can name the text limit."""

    max_text_chars: int = Field(131_072, ge=1)
    """Longest text of a request, in characters; all its fields count together."""

    window_chars: int = Field(64, ge=0)
    """Characters held back at the end of a stream; longer than any phrase that the heads know."""

    stride_chars: int = Field(16, ge=1)
    """Characters that an evaluation of a stream must be able to release; about four tokens."""

    context_chars: int = Field(512, ge=0)
    """Characters before new text that are evaluated with it."""

    check_timeout_s: float = Field(2.0, gt=0)
    """Longest wait for the fast scorer tier, in seconds; after it the text is blocked."""

    deep_timeout_s: float = Field(10.0, gt=0)
    """Longest wait for the deep scorer tier, in seconds; after it the text is blocked."""

    heads: Path = Path("adapters/guard")
    """Folder of the heads' artifact."""

    scorer_socket: Path | None = None
    """Unix socket of the machine's shared scorer server; unset starts scorers of its own."""

    policy: Path = DEFAULT_POLICY
    """Safety policy file; reloaded when it changes."""

    strength_key: str = "bem:safety:strength"
    """Redis hash of the safety strengths."""

    audit_anchor: Path = Path(".run/audit/anchor")
    """File in which the witness keeps the chain's head."""

    audit_interval_s: float = Field(0.5, gt=0)
    """Seconds between two looks of the witness; bounds what can be cut off unseen."""

    @model_validator(mode="after")
    def _upstream_is_private(self) -> "SafetySettings":
        if self.tls_mode is not TlsMode.OFF and not self.upstream.startswith("unix:"):
            raise ValueError(
                f"upstream: {self.upstream!r} is a port without TLS although tls_mode is "
                f"{self.tls_mode}; let the mission listen on unix:/path"
            )
        return self
