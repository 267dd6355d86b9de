"""Audit record of a call: decision, scores and keyed digest of the text, never the text itself."""

import hashlib
import time
from dataclasses import dataclass, field

from bem_fleet.guard.policy import Action, SafetyVerdict
from fleet import logs
from fleet.access import principal
from fleet.audit_chain import ChainWriter
from prometheus_client import Counter

RECORDS = Counter("bem_safety_audit_records_total", "Audit records written.", ["action"])


@dataclass
class AuditRecord:
    """Collects the facts of one call; written once, before the last text is released.

    Attributes:
        method: Path of the method.
        started: ``time.perf_counter()`` at the start of the call, in seconds.
        worst_verdict: Verdict with the strictest action; among equals, the highest overall score.
        chars: Characters of response text.
        redacted: Number of redacted spans.
        strength: Safety strength sent to the mission; empty if none was sent.
        written: Whether the record is stored.
        principal: Name of the caller's key.
        digest: Running SHA-256 of the response text.
    """

    method: str
    started: float = field(default_factory=time.perf_counter)
    worst_verdict: SafetyVerdict | None = None
    chars: int = 0
    redacted: int = 0
    strength: str = ""
    written: bool = False
    principal: str = field(default_factory=lambda: principal.get().name)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def count_text(self, text: str) -> None:
        """Add response text to the length and the digest."""
        self.chars += len(text)
        self.digest.update(text.encode("utf-8", errors="replace"))

    def add_verdict(self, verdict: SafetyVerdict) -> None:
        """Keep the verdict if it is the worst so far."""
        worst = self.worst_verdict
        if worst is None or (verdict.action, verdict.overall) > (worst.action, worst.overall):
            self.worst_verdict = verdict

    async def write(self, writer: ChainWriter, status: str) -> None:
        """Append the record to the audit chain.

        Args:
            writer: Audit chain.
            status: Status of the call, such as ``OK``.

        Raises:
            UnavailableError: The record could not be stored; nothing more may be released.
        """
        verdict = self.worst_verdict
        action = (verdict.action if verdict else Action.ALLOW).name.lower()
        violation = verdict.worst_violation if verdict else None
        violations = verdict.violations if verdict else ()
        await writer.append(
            {
                "request_id": logs.request_id.get(),
                "method": self.method,
                "principal": self.principal,
                "action": action,
                "constraint": violation.rule.constraint if violation else "",
                "category": violation.rule.scorer if violation else "",
                "score": f"{violation.score:.4f}" if violation else "",
                "threshold": f"{violation.rule.threshold:.4f}" if violation else "",
                "overall": f"{verdict.overall:.4f}" if verdict else "",
                "violations": ",".join(sorted({v.rule.scorer for v in violations})),
                "policy": verdict.version if verdict else "",
                "strength": self.strength,
                "redacted": str(self.redacted),
                "chars": str(self.chars),
                "text_hmac": writer.text_digest(self.digest.digest()),
                "duration_ms": f"{(time.perf_counter() - self.started) * 1000:.1f}",
                "status": status,
            }
        )
        self.written = True
        RECORDS.labels(action).inc()
