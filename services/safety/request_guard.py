"""Request guard: validates and evaluates requests, and builds the metadata sent to the mission."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bem_fleet.guard.scoring.prefilter import invalid_text_reason
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.continuation import continued_texts
from bem_fleet.services.safety.descriptors import Method, texts
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.safety_strength import SafetyStrengthStore
from bem_fleet.services.safety.settings import SafetySettings
from bem_fleet.services.safety.verdicts import enforce
from bemfleet.common.v1 import text_pb2
from fleet.access import Role, principal
from fleet.clients import outgoing_metadata
from fleet.errors import InvalidArgumentError
from fleet.text_roles import asks_exact_answer
from fleet.wire import (
    AUTHORIZATION,
    CLIENT,
    FORWARDED_BY,
    REQUEST_ID,
    SAFETY_MINIMUM,
    SAFETY_STRENGTH,
    TENANT,
    TRACEPARENT,
)
from google.protobuf.message import DecodeError, Message
from grpc import aio

# Metadata of the client's own connection, keys, and what the sidecar sets itself: among it request
# id and trace context, of which it may have made its own.
_NOT_FORWARDED = frozenset(
    {
        *("user-agent", "te", "content-type", AUTHORIZATION, FORWARDED_BY),
        *(SAFETY_STRENGTH, SAFETY_MINIMUM, TENANT, CLIENT, REQUEST_ID, TRACEPARENT),
    }
)


@dataclass(frozen=True)
class CheckedRequest:
    """A request that may reach the mission.

    Attributes:
        text: All its texts, joined by line breaks.
        continued: Texts that its answers continue, one for each answer.
        exact: Whether its answers have a form that a redaction would break.
    """

    text: str = ""
    continued: tuple[str, ...] = ()
    exact: bool = False


class RequestGuard:
    """Decides which requests reach the mission.

    Args:
        settings: Limits of requests.
        evaluator: Policy evaluator.
        strength: Safety strengths by tenant.
    """

    def __init__(
        self,
        settings: SafetySettings,
        evaluator: PolicyEvaluator,
        strength: SafetyStrengthStore,
    ) -> None:
        self._settings = settings
        self._evaluator = evaluator
        self._strength = strength

    async def check(
        self, method: Method, raw: bytes, record: AuditRecord, preceding: str = ""
    ) -> CheckedRequest:
        """Validate and evaluate a request.

        All text fields are evaluated as one text together with the preceding text of the stream,
        so that a phrase split over fields or messages is complete in it.

        Args:
            method: Called method.
            raw: Serialized request.
            record: Receives the verdict.
            preceding: Text of the preceding messages of the request stream.

        Raises:
            InvalidArgumentError: The message cannot be parsed, has too much text or too many texts,
                or has control characters.
            DeniedError: The policy blocks the request.
            UnavailableError: There is no verdict.
        """
        parts, total, limit = [], 0, self._settings.max_text_chars
        message = parse_message(method.request, raw, InvalidArgumentError)
        continued = continued_texts(message)
        for field, role, text in texts(message):
            total += len(text)
            if total > limit:
                raise InvalidArgumentError(
                    field,
                    f"the request has {total} characters of text up to this field; the limit is "
                    f"{limit}; shorten it",
                )
            if role == text_pb2.TEXT_ROLE_PROMPT and (reason := invalid_text_reason(text)):
                raise InvalidArgumentError(field, f"{reason}; remove it")
            parts.append(text)
        prompt = "\n".join([preceding, *parts] if preceding else parts)
        if prompt and not method.only_counts:
            verdict = await self._evaluator.evaluate(prompt, "request")
            enforce(verdict, record, "request")
        return CheckedRequest(prompt, continued, asks_exact_answer(message))

    def forwarded_metadata(
        self, context: aio.ServicerContext[Any, Any], record: AuditRecord
    ) -> list[tuple[str, Any]]:
        """Return the client's metadata without keys, with its name, tenant, strength and trace.

        Name and tenant are those of the caller's key, never one that the client names.

        Args:
            context: Context of the client's call.
            record: Receives the strength.

        Raises:
            InvalidArgumentError: The client's strength is not a number from 0 to 1.
        """
        metadata = dict(context.invocation_metadata() or ())
        caller, requested = principal.get(), metadata.get(SAFETY_STRENGTH)
        strength = self._strength.resolve(
            caller.tenant,
            None if requested is None else str(requested),
            may_lower=caller.has_key and caller.role >= Role.OPERATOR,
        )
        own = {
            CLIENT: caller.name,
            TENANT: caller.tenant,
            SAFETY_STRENGTH: "" if strength.value is None else f"{strength.value:.6g}",
            SAFETY_MINIMUM: f"{strength.minimum:.6g}" if strength.minimum else "",
        }
        record.strength = own[SAFETY_STRENGTH] or own[SAFETY_MINIMUM]
        forwarded = [
            (key, value)
            for key, value in metadata.items()
            if key not in _NOT_FORWARDED and not key.startswith("grpc-")
        ]
        own_pairs = ((key, value) for key, value in own.items() if value)
        return [*forwarded, *outgoing_metadata(), *own_pairs]


def parse_message(
    message_type: type[Message], raw: bytes, make_error: Callable[[str, str], Exception]
) -> Message:
    """Return the message that ``raw`` encodes.

    Args:
        message_type: Class of the message.
        raw: Serialized message.
        make_error: Makes the error from the message's name and the problem.

    Raises:
        Exception: The error of ``make_error``, if ``raw`` cannot be parsed.
    """
    message = message_type()
    try:
        message.ParseFromString(raw)
    except DecodeError as err:
        raise make_error(
            message_type.DESCRIPTOR.name,
            "cannot be parsed: another message type, or text that is not UTF-8",
        ) from err
    return message
