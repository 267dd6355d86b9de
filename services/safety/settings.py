"""Settings of the safety sidecar."""

from pathlib import Path

from bem_fleet.guard.policy import DEFAULT_POLICY
from fleet.settings import FleetSettings
from pydantic import Field


class SafetySettings(FleetSettings, env_prefix="BEM_SAFETY_"):
    """Read from ``BEM_SAFETY_*``."""

    upstream: str = "unix:.run/router.sock"
    """Where the mission listens."""

    pages_address: str | None = None
    """``host:port`` of ``/metrics`` (the sidecar's) and ``/upstream/metrics`` (the mission's)."""

    max_message_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """Largest message received; above the text limit, so that the text limit can be named."""

    max_text_chars: int = Field(131_072, ge=1)
    """Longest text of a request, all its fields together, in characters."""

    window_chars: int = Field(64, ge=0)
    """Text held back at the end of a stream: longer than any phrase that the scorer knows."""

    stride_chars: int = Field(16, ge=1)
    """A verdict is asked for when it can release this much: about four tokens."""

    context_chars: int = Field(512, ge=0)
    """Text before a new piece that is judged with it."""

    check_timeout_s: float = Field(2.0, gt=0)
    """Longest wait for the scorer of words; after it nothing leaves."""

    deep_timeout_s: float = Field(10.0, gt=0)
    """Longest wait for embeddings, personal data and secrets; after it nothing passes."""

    scorer: Path = Path("adapters/guard")
    """Folder of the heads' artifact."""

    policy: Path = DEFAULT_POLICY
    """The policy; read again when it changes."""

    strength_key: str = "bem:safety:strength"
    """Redis hash of the safety adapter's strengths."""

    operator_key_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    """SHA-256, hexadecimal, of the key that SetStrength asks for; empty refuses every SetStrength."""

    audit_stream: str = "bem:audit"
    """Redis stream of the audit records."""

    audit_key_file: Path | None = None
    """File with the secret of the audit chain's HMAC; without one the chain is a fold_confusables hash."""
