"""Errors of the mission as a client may read them: their texts are judged like a response.

A mission's error may quote what it generated or what it read. Message and standard details are
judged as one text. Details and trailing metadata of other kinds are not forwarded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bem_fleet.guard.spans import redact
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.text_slots import text_slots
from fleet.errors import code_and_message
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

_STATUS_KEY = "grpc-status-details-bin"
_WITHHELD = "the mission failed; its error was withheld, see its log"
_KNOWN: tuple[type[Message], ...] = (
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.ErrorInfo,
)


@dataclass(frozen=True)
class FilteredError:
    """Texts of an error as they may leave.

    Attributes:
        message: Message for the caller.
        trailing_metadata: Trailing metadata with the standard details.
    """

    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...] = ()


async def filter_error(err: aio.AioRpcError, evaluator: PolicyEvaluator) -> FilteredError:
    """Return message and details of a mission's error, redacted or withheld as the policy says.

    Raises:
        UnavailableError: There is no verdict.
    """
    _, message = code_and_message(err)
    details = _known_details(err)
    slots = [slot for detail in details for slot in text_slots(detail)]
    texts = [message, *(slot.text for slot in slots)]
    whole = "\n".join(texts)
    if not whole.strip():
        return FilteredError(message, _packed(err, message, details))
    verdict = await evaluator.evaluate(whole, complete=False)
    if not verdict.allowed:
        return FilteredError(_WITHHELD)
    spans = await evaluator.find_spans(whole) or []
    redacted, offset = [], 0
    for text in texts:
        redacted.append(redact(text, spans, offset))
        offset += len(text) + 1
    for slot, before, after in zip(slots, texts[1:], redacted[1:], strict=True):
        if before == after:
            continue
        if slot.replace is None:
            return FilteredError(_WITHHELD)
        slot.replace(after)
    return FilteredError(redacted[0], _packed(err, redacted[0], details))


def _known_details(err: aio.AioRpcError) -> list[Message]:
    """Return the standard details of an error; others cannot be read and are left out."""
    raw: Any = dict(err.trailing_metadata() or ()).get(_STATUS_KEY)
    if not raw:
        return []
    status = status_pb2.Status()
    try:
        status.ParseFromString(raw)
    except DecodeError:
        return []
    details = []
    for packed in status.details:
        for kind in _KNOWN:
            detail = kind()
            if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
                detail.DiscardUnknownFields()
                details.append(detail)
    return details


def _packed(
    err: aio.AioRpcError, message: str, details: Sequence[Message]
) -> tuple[tuple[str, bytes], ...]:
    if not details:
        return ()
    status = status_pb2.Status(code=err.code().value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((_STATUS_KEY, status.SerializeToString()),)
