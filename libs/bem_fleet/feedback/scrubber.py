"""Feedback scrubber: removes personal data and secrets from feedback before it is stored.

The span finders need the guard's libraries, which the images of gateway and processor do not have;
the safety sidecar of a mission has them. Without its answer nothing is stored. Identifiers that
must stay comparable, such as users and sessions, become keyed hashes instead.
"""

from __future__ import annotations  # the typed stub exists in the stubs only

import hmac
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from bemfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from fleet.access import Principal
from fleet.clients import outgoing_metadata

from bem_fleet.feedback.record import Feedback, FeedbackRecord

_TIMEOUT_S = 15.0
_HALF_USER = 32
# Ids that the gateway made have no text of a client in them.
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

    async def scrub(
        self, written: Feedback, caller: Principal, request_id: str = ""
    ) -> FeedbackRecord:
        """Return what may be stored of what a client wrote.

        Without consent no free text is kept: correction, edit and comment leave only their lengths,
        and there is neither a user nor a session.

        Args:
            written: The feedback.
            caller: Owner of the API key that sent it.
            request_id: Id of the request; a client may have chosen it.

        Raises:
            grpc.RpcError: The sidecar does not answer; nothing may be stored.
        """
        free = [
            text or ""
            for text in (
                *(written.correction, written.edit, written.comment),
                *(written.prompt, written.answer),
            )
        ]
        kept = free if written.consent else [""] * len(free)
        texts, labels = await self._redact(
            [written.completion_id, request_id, *kept, *written.tags]
        )
        completion, request, correction, edit, comment, prompt, answer, *tags = texts
        return FeedbackRecord(
            completion_id=completion,
            request_id=request,
            received_unix_ms=int(time.time() * 1000),
            consent=written.consent,
            user=self.user(caller, written.user) if written.consent else "",
            rating=written.rating or "",
            correction=correction,
            edit=edit,
            comment=comment,
            prompt=prompt,
            answer=answer,
            tags=tuple(tags),
            session=self.pseudonym("session", written.session) if written.consent else "",
            correction_chars=len(free[0]),
            edit_chars=len(free[1]),
            comment_chars=len(free[2]),
            redacted=tuple(labels),
        )

    def pseudonym(self, purpose: str, text: str | None) -> str:
        """Return a keyed hash of an identifier, hexadecimal; empty for none."""
        if not text:
            return ""
        return hmac.digest(self._key, f"{purpose}\0{text}".encode(), "sha256").hex()

    def user(self, caller: Principal, end_user: str | None) -> str:
        """Return the pseudonym of a user, in the form of ``record.USER``.

        Args:
            caller: Owner of the API key.
            end_user: User as the client names it; None if the key is one person's.
        """
        source = f"{caller.tenant}\0{caller.name}"
        halves = (
            self.pseudonym("source", source),
            self.pseudonym("user", f"{source}\0{end_user or ''}"),
        )
        return "-".join(half[:_HALF_USER] for half in halves)

    def once_key(self, caller: Principal, idempotency_key: str | None) -> str | None:
        """Return a caller's idempotency key as a keyed hash; None for none."""
        scoped = f"{caller.tenant}\0{caller.name}\0{idempotency_key}" if idempotency_key else None
        return self.pseudonym("idempotency-key", scoped) or None

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
