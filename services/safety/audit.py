"""The audit record of a call: what was decided and why, never the text itself."""

import hashlib
import time
from dataclasses import dataclass, field

from bem_fleet.guard.policy import Action, SafetyVerdict
from fleet import logs
from fleet.audit_chain import ChainWriter
from prometheus_client import Counter

RECORDS = Counter("bem_safety_audit_records_total", "Audit records written.", ["action"])


@dataclass
class AuditRecord:
    """Gathers what one call shows; written once, before its last text leaves.

    Attributes:
        method: Call path.
        began: Value of ``time.perf_counter()`` at its start.
        worst: The strictest verdict so far, of those the one with the highest overall score.
        chars: Characters judged as output.
        redacted: Spans cut out.
        strength: The safety adapter's strength that the mission was given; empty where none was.
        written: Whether the record is stored.
        digest: Running SHA-256 of the output text.
    """

    method: str
    began: float = field(default_factory=time.perf_counter)
    worst: SafetyVerdict | None = None
    chars: int = 0
    redacted: int = 0
    strength: str = ""
    written: bool = False
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def saw(self, text: str) -> None:
        """Count output text."""
        self.chars += len(text)
        self.digest.update(text.encode("utf-8", errors="replace"))

    def judged(self, verdict: SafetyVerdict) -> None:
        """Keep the worst verdict."""
        worst = self.worst
        if worst is None or (verdict.action, verdict.overall) > (worst.action, worst.overall):
            self.worst = verdict

    async def write(self, writer: ChainWriter, status: str) -> None:
        """Append the record.

        Raises:
            UnavailableError: It could not be written; then nothing more may leave.
        """
        verdict = self.worst
        action = (verdict.action if verdict else Action.ALLOW).name.lower()
        found = verdict.worst if verdict else None
        broken = verdict.violations if verdict else ()
        await writer.append(
            {
                "request_id": logs.request_id.get(),
                "method": self.method,
                "action": action,
                "constraint": found.rule.constraint if found else "",
                "category": found.rule.scorer if found else "",
                "score": f"{found.score:.4f}" if found else "",
                "threshold": f"{found.rule.threshold:.4f}" if found else "",
                "overall": f"{verdict.overall:.4f}" if verdict else "",
                "violations": ",".join(sorted({v.rule.scorer for v in broken})),
                "policy": verdict.version if verdict else "",
                "strength": self.strength,
                "redacted": str(self.redacted),
                "chars": str(self.chars),
                "sha256": self.digest.hexdigest(),
                "duration_ms": f"{(time.perf_counter() - self.began) * 1000:.1f}",
                "status": status,
            }
        )
        self.written = True
        RECORDS.labels(action).inc()
