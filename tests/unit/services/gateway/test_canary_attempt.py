"""Attempts on scripted messages; the policy around them is in test_canary_routing."""

import grpc
import pytest
from bem_fleet.services.gateway.canary_attempt import Attempt, Messages, outcome_of, shed_for_s
from bem_fleet.services.gateway.canary_observations import RequestOutcome
from bem_fleet.services.gateway.method_fields import MethodFields
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import (
    DeniedError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
    to_status,
)
from grpc import aio
from grpc_status import rpc_status

METHODS = pb.DESCRIPTOR.services_by_name["RouterService"].methods_by_name
GENERATE, COMPLETE, COUNT = (
    MethodFields(METHODS[name]) for name in ("Generate", "Complete", "CountTokens")
)
LABEL = pb.GenerateResponse(model_version="v").SerializeToString()
TEXT = pb.GenerateResponse(text="hello").SerializeToString()
BLANK = pb.GenerateResponse(text=" \n").SerializeToString()
CUT = pb.GenerateResponse(finish_reason=pb.FINISH_REASON_LENGTH).SerializeToString()
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


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([LABEL, TEXT, END], {}),
        ([LABEL, END], {"empty": True}),
        ([LABEL, BLANK, END], {"empty": True}),
        ([TEXT, CUT], {"truncated": True}),
        ([CUT], {"empty": True, "truncated": True}),
        ([LABEL, TEXT], {"failed": True}),
        ([], {"failed": True}),
    ],
)
async def test_an_answer_is_whole_only_with_text_and_an_end(
    messages: list[bytes], expected: dict[str, bool]
) -> None:
    """Empty, cut off and broken off are told apart; none of them is an answer like another."""
    outcomes: list[RequestOutcome] = []
    attempt = Attempt(script(*messages), GENERATE, outcomes.append)
    assert [message async for message in attempt.messages_from_first_text()] == messages

    (outcome,) = outcomes
    flags = {name: getattr(outcome, name) for name in ("failed", "empty", "truncated")}
    assert flags == {"failed": False, "empty": False, "truncated": False, **expected}


@pytest.mark.parametrize(("text", "empty"), [("Paris", False), ("", True), ("\n ", True)])
async def test_a_unary_answer_without_text_is_empty(text: str, empty: bool) -> None:
    """The same holds for the answer in one message."""
    outcomes: list[RequestOutcome] = []
    message = pb.CompleteResponse(text=text, finish_reason=pb.FINISH_REASON_STOP)
    attempt = Attempt(script(message.SerializeToString()), COMPLETE, outcomes.append)
    assert len([one async for one in attempt.messages()]) == 1

    assert [outcome.empty for outcome in outcomes] == [empty]


async def test_numbers_are_no_empty_answer() -> None:
    """A method whose answer is no text, such as a token count, cannot be empty."""
    outcomes: list[RequestOutcome] = []
    message = pb.CountTokensResponse(usage=pb.Usage(prompt_tokens=3)).SerializeToString()
    attempt = Attempt(script(message), COUNT, outcomes.append)
    assert len([one async for one in attempt.messages()]) == 1

    assert not outcomes[0].empty


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


@pytest.mark.parametrize(
    ("error", "delay_s"),
    [
        (OverloadedError("the queue is full", 2.5), 2.5),
        (UnavailableError("the mission restarts", 2.5), None),
        (InvalidArgumentError("prompt", "is too long"), None),
    ],
)
def test_a_full_queue_is_nobodys_fault(error: Exception, delay_s: float | None) -> None:
    """A call that was refused for want of room has no outcome; it has the delay of a retry."""
    status = rpc_status.to_status(to_status(error, {}))
    trailing = aio.Metadata(*status.trailing_metadata)
    err = aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)

    assert shed_for_s(err) == delay_s
    assert (outcome_of(err, 0.5) is None) is (delay_s is not None)


def test_cancelled_call_has_no_outcome() -> None:
    """Nobody is to blame for a client that leaves."""
    err = aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata())

    assert outcome_of(err, 0.5) is None
