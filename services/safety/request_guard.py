"""What a request must be before the mission sees it, and what the mission is told beside it."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from typing import Any

from bem_fleet.guard.policy import SafetyVerdict
from bem_fleet.guard.scoring.prefilter import invalid_text_reason
from bem_fleet.services.safety.audit import AuditRecord
from bem_fleet.services.safety.descriptors import Method, texts
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.safety_strength import HEADER, TENANT, SafetyStrengthStore
from bem_fleet.services.safety.settings import SafetySettings
from bemfleet.common.v1 import text_pb2
from fleet.errors import DeniedError, InvalidArgumentError
from google.protobuf.message import DecodeError, Message
from grpc import aio

FILTERED = "CONTENT_FILTERED"
_OWN_HEADERS = ("user-agent", "te", "content-type", HEADER)


class RequestGuard:
    """Checks requests.

    Args:
        settings: Limits.
        judge: Gives verdicts.
        strength: Knows the strength of each tenant.
    """

    def __init__(self, settings: SafetySettings, judge: PolicyEvaluator, strength: SafetyStrengthStore) -> None:
        self._settings = settings
        self._judge = judge
        self._strength = strength

    async def check(self, method: Method, raw: bytes, record: AuditRecord, before: str = "") -> str:
        """Return the request's text.

        All its fields are judged as one text, with what the stream said before: a word that is cut
        over two fields or messages is whole there.

        Args:
            method: Which is called.
            raw: The message.
            record: Takes the verdict.
            before: Text of the messages before it in its stream.

        Raises:
            InvalidArgumentError: No message of this kind, too much text, or control characters.
            DeniedError: The policy blocks it.
            UnavailableError: There is no verdict.
        """
        name = method.request.DESCRIPTOR.name
        parts, total, most = [], 0, self._settings.max_text_chars
        for field, role, text in texts(parse(method.request, raw, InvalidArgumentError)):
            total += len(text)
            if total > most:
                raise InvalidArgumentError(
                    field,
                    f"{name} has {total} characters of text up to {field}; the limit is {most}",
                )
            if role == text_pb2.TEXT_ROLE_PROMPT and (problem := invalid_text_reason(text)):
                raise InvalidArgumentError(field, f"{name}.{field} {problem}")
            parts.append(text)
        asked = "\n".join([before, *parts] if before else parts)
        if asked:
            verdict = await self._judge.check(asked, "request")
            enforce(verdict, record, "request")
        return asked

    def metadata(
        self, context: aio.ServicerContext[Any, Any], record: AuditRecord
    ) -> list[tuple[str, Any]]:
        """Return the client's metadata without what belongs to its own connection, and the strength.

        Raises:
            InvalidArgumentError: The client's strength is no number from 0 to 1.
        """
        given = dict(context.invocation_metadata() or ())
        asked, tenant = given.get(HEADER), given.get(TENANT, "")
        value = self._strength.value(str(tenant), None if asked is None else str(asked))
        record.strength = "" if value is None else f"{value:.6g}"
        kept = [
            (key, found)
            for key, found in given.items()
            if key not in _OWN_HEADERS and not key.startswith("grpc-")
        ]
        return [*kept, (HEADER, record.strength)] if record.strength else kept


def enforce(verdict: SafetyVerdict, record: AuditRecord, on: str) -> None:
    """Note a verdict and end the call where it says so.

    Raises:
        DeniedError: The text must not pass.
    """
    record.judged(verdict)
    worst = verdict.worst
    if verdict.allowed or worst is None:
        return
    what = "the request was refused" if on == "request" else "the answer was withheld"
    raise DeniedError(
        f"{what}: {worst.rule.constraint} ({worst.rule.scorer})",
        FILTERED,
        {
            "category": worst.rule.scorer,
            "constraint": worst.rule.constraint,
            "score": f"{worst.score:.3f}",
            "on": on,
        },
    )


def parse(kind: type[Message], raw: bytes, problem: Any) -> Message:
    """Return the message that ``raw`` is.

    Args:
        kind: Its class.
        raw: As it came.
        problem: Makes the error from the message's name and what is wrong.

    Raises:
        Exception: What ``problem`` made.
    """
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError as err:
        raise problem(
            kind.DESCRIPTOR.name, "cannot be parsed: not this message, or a text is not UTF-8"
        ) from err
    return message
