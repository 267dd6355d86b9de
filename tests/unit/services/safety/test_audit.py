"""Audit record of a call."""

import hashlib
from collections.abc import Mapping
from typing import Any

from bem_fleet.guard.findings import Finding
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.services.safety.audit import AuditRecord

POLICY = load_policy(DEFAULT_POLICY)


class Writer:
    """Audit chain in memory."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, str]] = []

    async def append(self, fields: Mapping[str, str]) -> None:
        """Keep the record."""
        self.records.append(fields)

    def text_digest(self, sha256: bytes) -> str:
        """Return a digest that shows what it was made of."""
        return f"keyed {sha256.hex()}"


async def test_record_has_the_worst_verdict_and_no_text() -> None:
    """Later, milder verdicts do not replace it; of the text there are length and digest only."""
    writer: Any = Writer()
    record = AuditRecord("/s/M")
    for scores in ({"pii": 1.0}, {"toxicity": 1.0}, {"toxicity": 0.0}):
        record.add_verdict(POLICY.evaluate("response", Finding(scores)))
    record.count_text("one ")
    record.count_text("two")
    await record.write(writer, "OK")
    (fields,) = writer.records

    assert (fields["action"], fields["category"], fields["status"]) == ("filter", "toxicity", "OK")
    assert fields["chars"] == "7"
    assert fields["text_hmac"] == f"keyed {hashlib.sha256(b'one two').hexdigest()}"
    assert "two" not in str({**fields, "text_hmac": ""})
    assert record.written


async def test_call_without_text_is_allowed() -> None:
    """A call without a verdict has empty fields."""
    writer: Any = Writer()
    await AuditRecord("/s/M").write(writer, "CANCELLED")

    assert writer.records[0]["action"] == "allow"
    assert writer.records[0]["policy"] == ""
