"""Enforcement of verdicts: errors of blocked requests and withheld responses, with the reason."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from bem_fleet.guard.policy import LANGUAGE, SafetyVerdict
from bem_fleet.services.safety.audit import AuditRecord
from bemfleet.common.v1 import text_pb2
from fleet.errors import DeniedError
from fleet.text_roles import field_options
from fleet.wire import CONTENT_FILTERED
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_MAX_REPORTED_CHARS = 128
_REPORTED: dict[str, bool] = {}


def enforce(
    verdict: SafetyVerdict,
    record: AuditRecord,
    side: str,
    reported: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Record a verdict, and end the call if the text must not pass.

    Args:
        verdict: Verdict on a text.
        record: Receives the verdict.
        side: ``request`` or ``response``.
        reported: Fields of the response that its error reports too, by name.

    Raises:
        DeniedError: The text must not pass.
    """
    record.add_verdict(verdict)
    if not verdict.allowed:
        raise denial(verdict, side, reported)


def denial(
    verdict: SafetyVerdict | None, side: str, reported: Mapping[str, str], reason: str = ""
) -> DeniedError:
    """Return the error of a text that must not pass.

    Args:
        verdict: Verdict on the text.
        side: ``request`` or ``response``.
        reported: Fields of the response that its error reports too, by name.
        reason: Sentence for people; empty names the violated rule.
    """
    worst = verdict.worst_violation if verdict else None
    metadata = {**reported, "side": side}
    if verdict and worst:
        subject = "the request was blocked" if side == "request" else "the response was withheld"
        why = f"it violates {worst.rule.constraint} ({worst.rule.scorer})"
        if worst.rule.scorer == LANGUAGE:
            why = "it is mainly in a language that the guard cannot judge (language)"
        reason = reason or f"{subject}: {why}"
        metadata |= {
            "category": worst.rule.scorer,
            "constraint": worst.rule.constraint,
            "score": f"{worst.score:.3f}",
            "threshold": f"{worst.rule.threshold:.3f}",
            "severity": f"{worst.rule.severity:.3f}",
            "policy": verdict.version,
        }
    return DeniedError(reason, CONTENT_FILTERED, {**metadata, "reason": reason})


def reported_fields(message: Message) -> dict[str, str]:
    """Return the fields of a response that are reported even if it is withheld, by name."""
    return dict(_reported(message))


def _reported(message: Message) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _reported(value)
        elif _is_reported(field):
            yield field.name, str(value)[:_MAX_REPORTED_CHARS]


def _is_reported(field: Any) -> bool:
    reported = _REPORTED.get(field.full_name)
    if reported is None:
        reported = field_options(field).Extensions[text_pb2.reported_if_withheld]
        _REPORTED[field.full_name] = reported
    return reported
