"""Feedback scrubber: removes personal data and secrets from feedback before it is stored.

The span finders need the guard's libraries, which the gateway's image does not have; the safety
sidecar of the OpenAI mission has them. Without its answer nothing is stored. Identifiers that must
stay comparable, such as sessions, become keyed hashes instead.
"""

from __future__ import annotations  # the typed stub exists in the stubs only

import hmac
import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from bem_fleet.services.gateway.openai_schema import FeedbackRequest
from bemfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from fleet.clients import outgoing_metadata

_TIMEOUT_S = 15.0
# Ids that this gateway made have no text of a client in them.
_OWN_ID = re.compile(r"(?:[a-z]+-)?[0-9a-f]{32}")


class FeedbackScrubber:
    """Scrubs the fields of feedback.

    Args:
        safety: Stub of the sidecar that finds personal data and secrets.
        key_file: File with the secret of pseudonyms; None makes a random one.

    Raises:
        ValueError: The file is empty.
        OSError: The file cannot be read.
    """

    def __init__(
        self, safety: safety_pb2_grpc.SafetyServiceAsyncStub, key_file: Path | None
    ) -> None:
        self._safety = safety
        self._key = key_file.read_bytes().strip() if key_file else secrets.token_bytes(32)
        if not self._key:
            raise ValueError(f"feedback_key_file: {key_file} is empty; write a random text into it")

    async def scrub(self, body: FeedbackRequest, request_id: str) -> dict[str, str]:
        """Return the fields to store of what a client wrote.

        Without consent no free text is kept: correction and comment leave only their lengths, and
        there is no session.

        Args:
            body: The feedback.
            request_id: Id of the request; a client may have chosen it.

        Raises:
            grpc.RpcError: The sidecar does not answer; nothing may be stored.
        """
        written = (body.correction or "", body.comment or "")
        kept = written if body.consent else ("", "")
        texts, labels = await self._redact([body.completion_id, request_id, *kept, *body.tags])
        completion, request, correction, comment, *tags = texts
        return {
            "completion_id": completion,
            "request_id": request,
            "correction": correction,
            "correction_chars": str(len(written[0])),
            "comment": comment,
            "comment_chars": str(len(written[1])),
            "tags": json.dumps(tags),
            "session": self.pseudonym("session", body.session) if body.consent else "",
            "redacted": ",".join(labels),
        }

    def pseudonym(self, purpose: str, text: str | None) -> str:
        """Return a keyed hash of an identifier, hexadecimal; empty for none."""
        if not text:
            return ""
        return hmac.digest(self._key, f"{purpose}\0{text}".encode(), "sha256").hex()

    async def _redact(self, texts: Sequence[str]) -> tuple[list[str], Sequence[str]]:
        """Return the texts without what the sidecar finds, and the entity types that it found."""
        places = [n for n, text in enumerate(texts) if text and not _OWN_ID.fullmatch(text)]
        if not places:
            return list(texts), ()
        response = await self._safety.Redact(
            safety_pb2.RedactRequest(texts=[texts[place] for place in places]),
            timeout=_TIMEOUT_S,
            metadata=outgoing_metadata(),
        )
        found = dict(zip(places, response.texts, strict=True))
        return [found.get(n, text) for n, text in enumerate(texts)], response.labels
