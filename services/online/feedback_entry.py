"""Feedback entry: scrubs what Feedback brings and appends it to the queue, as the gateway does."""

from __future__ import annotations  # the typed stub exists in the stubs only

from bem_fleet.feedback.intake import FeedbackIntake, Receipt
from bem_fleet.feedback.record import MAX_TEXT_CHARS, RATINGS, Feedback
from bem_fleet.feedback.scrubber import FeedbackScrubber
from bem_fleet.services.online.settings import OnlineSettings
from bemfleet.safety.v1 import safety_pb2_grpc
from fleet import logs
from fleet.access.principal import Principal
from fleet.certificates import certificates_of
from fleet.clients import open_channel
from fleet.errors import FailedPreconditionError, InvalidArgumentError

_MAX_ID_CHARS, _MAX_TAGS = 256, 16
_TEXTS = ("correction", "edit", "comment", "prompt", "answer")


class FeedbackEntry:
    """Entry of feedback into the queue.

    Args:
        settings: Settings of the mission.
    """

    def __init__(self, settings: OnlineSettings) -> None:
        self._intake = FeedbackIntake(settings.redis_url, settings.feedback_limits)
        self._address = settings.safety_address
        self._channel = open_channel(
            settings.safety_address or settings.address, certificates=certificates_of(settings)
        )
        stub = safety_pb2_grpc.SafetyServiceStub(self._channel)
        self._scrubber = FeedbackScrubber(stub, settings.feedback_key_file)

    async def submit(
        self, written: Feedback, caller: Principal, idempotency_key: str = ""
    ) -> Receipt:
        """Scrub feedback, append it, and return its receipt once it is on disk.

        Args:
            written: What a person wrote.
            caller: Owner of the API key that sent it.
            idempotency_key: The same key stores once; empty stores in any case.

        Raises:
            InvalidArgumentError: A field is missing or too long.
            FailedPreconditionError: No sidecar is set that scrubs.
            OverloadedError: A rate, the backlog or Redis's memory is at its limit.
            UnavailableError: Redis did not acknowledge it.
        """
        _check(written)
        if not self._address:
            raise FailedPreconditionError(
                "safety_address: no sidecar is set that removes personal data; send feedback to "
                "POST /v1/feedback of the gateway"
            )
        record = await self._scrubber.scrub(written, caller, logs.request_id.get())
        once = self._scrubber.once_key(caller, idempotency_key or None)
        return await self._intake.submit(record, once)

    def user(self, owner: Principal, end_user: str | None) -> str:
        """Return the pseudonym of a user, as feedback has it."""
        return self._scrubber.user(owner, end_user)

    async def close(self) -> None:
        """Close the connections."""
        self._intake.close()
        await self._channel.close()


def _check(written: Feedback) -> None:
    if not 1 <= len(written.completion_id) <= _MAX_ID_CHARS:
        raise InvalidArgumentError(
            "answer_id", f"has {len(written.completion_id)} characters; 1 to {_MAX_ID_CHARS}"
        )
    if (written.rating or "") not in RATINGS:
        raise InvalidArgumentError("rating", "is neither up nor down; leave it empty for none")
    for name in _TEXTS:
        size = len(getattr(written, name) or "")
        if size > MAX_TEXT_CHARS // 2:  # replacements may lengthen a text
            raise InvalidArgumentError(
                name, f"has {size} characters; at most {MAX_TEXT_CHARS // 2} are allowed"
            )
    if len(written.tags) > _MAX_TAGS:
        raise InvalidArgumentError("tags", f"has {len(written.tags)} texts; at most {_MAX_TAGS}")
    told = (written.rating, written.correction, written.edit, written.comment, written.tags)
    if not any(told):
        raise InvalidArgumentError(
            "correction", "is empty, as are rating, edit, comment and tags; give one of them"
        )
