"""Attempts on scripted messages; the policy around them is in test_canary_routing."""

import grpc
import pytest
from bem_fleet.services.gateway.canary_attempt import Attempt, Messages, outcome_of
from bem_fleet.services.gateway.canary_observations import RequestOutcome
from bem_fleet.services.gateway.method_fields import MethodFields
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import DeniedError, UnavailableError, to_status
from grpc import aio
from grpc_status import rpc_status

GENERATE = MethodFields(pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name["Generate"])
LABEL = pb.GenerateResponse(model_version="v").SerializeToString()
TEXT = pb.GenerateResponse(text="hello").SerializeToString()
END = pb.GenerateResponse(finish_reason=pb.FINISH_REASON_STOP).SerializeToString()


async def script(*messages: bytes) -> Messages:
    """Yield the messages of a call."""
    for message in messages:
        yield message


async def test_outcome_is_recorded_once_before_the_last_message() -> None:
    """A client that stops reading at the end of the text has been counted."""
    outcomes: list[RequestOutcome] = []
    attempt = Attempt(script(LABEL, TEXT, END, LABEL), GENERATE, outcomes.append)
    counts = [(message, len(outcomes)) async for message in attempt.messages()]

    assert counts == [(LABEL, 0), (TEXT, 0), (END, 1), (LABEL, 1)]
    assert attempt.completed


async def test_messages_are_held_until_the_first_text() -> None:
    """The label leaves together with the text, and from there on the attempt is committed."""
    attempt = Attempt(script(LABEL, TEXT, END), GENERATE, lambda _: None)
    held = attempt.messages_from_first_text()
    first = await anext(held)

    assert (first, attempt.committed) == (LABEL, True)
    assert [message async for message in held] == [TEXT, END]


async def test_stream_without_an_end_field_completes_with_its_end() -> None:
    """A stream that never ends its text is complete when the call is."""
    outcomes: list[RequestOutcome] = []
    attempt = Attempt(script(TEXT), GENERATE, outcomes.append)
    assert [message async for message in attempt.messages_from_first_text()] == [TEXT]
    assert len(outcomes) == 1


@pytest.mark.parametrize(
    ("error", "failed", "withheld"),
    [
        (UnavailableError("away"), True, False),
        (DeniedError("withheld", "CONTENT_FILTERED", {}), False, True),
        (DeniedError("not you", "ROLE_REQUIRED", {}), True, False),
    ],
)
def test_withheld_answer_is_no_failure(error: Exception, failed: bool, withheld: bool) -> None:
    """The reason of the sidecar decides, not the status code."""
    status = rpc_status.to_status(to_status(error, {}))
    trailing = aio.Metadata(*status.trailing_metadata)
    err = aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)

    assert outcome_of(err, 0.5) == RequestOutcome(0.5, failed=failed, withheld=withheld)


def test_cancelled_call_has_no_outcome() -> None:
    """Nobody is to blame for a client that leaves."""
    err = aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata())

    assert outcome_of(err, 0.5) is None
