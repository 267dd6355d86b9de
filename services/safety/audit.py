"""The audit record of a call: what was decided and why, never the text itself."""

import hashlib
import time
from dataclasses import dataclass, field

from fleet import logs
from fleet.streams import StreamWriter
from prometheus_client import Counter

from services.safety.judge import Verdict

RECORDS = Counter("bem_safety_audit_records_total", "Audit records written.", ["action"])


@dataclass
class AuditRecord:
    """Gathers what one call shows; written once, before its last text leaves.

    Attributes:
        method: Call path.
        began: Value of ``time.perf_counter()`` at its start.
        worst: The verdict with the highest score so far.
        chars: Characters judged as output.
        written: Whether the record is stored.
        digest: Running SHA-256 of the output text.
    """

    method: str
    began: float = field(default_factory=time.perf_counter)
    worst: Verdict | None = None
    chars: int = 0
    written: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def saw(self, text: str) -> None:
        """Count output text."""
        self.chars += len(text)
        self.digest.update(text.encode("utf-8", errors="replace"))

    def judged(self, verdict: Verdict) -> None:
        """Keep the worst verdict."""
        if self.worst is None or verdict.score > self.worst.score:
            self.worst = verdict

    async def write(self, writer: StreamWriter, status: str) -> None:
        """Append the record.

        Raises:
            UnavailableError: It could not be written; then nothing more may leave.
        """
        action = "allow" if self.worst is None or self.worst.allowed else "filter"
        await writer.append(
            {
                "request_id": logs.request_id.get(),
                "method": self.method,
                "action": action,
                "category": self.worst.category if self.worst else "",
                "score": f"{self.worst.score:.4f}" if self.worst else "",
                "threshold": f"{self.worst.threshold:.4f}" if self.worst else "",
                "chars": str(self.chars),
                "sha256": self.digest.hexdigest(),
                "duration_ms": f"{(time.perf_counter() - self.began) * 1000:.1f}",
                "status": status,
            }
        )
        self.written = True
        RECORDS.labels(action).inc()
