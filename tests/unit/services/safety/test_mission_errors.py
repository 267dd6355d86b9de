"""Errors of the mission on their way to the client."""

import grpc
from bem_fleet.guard.policy import DEFAULT_POLICY, load_policy
from bem_fleet.services.safety.evaluator import PolicyEvaluator
from bem_fleet.services.safety.mission_errors import filter_error
from fleet.errors import InvalidArgumentError, details_of, to_status
from grpc import aio
from grpc_status import rpc_status

from tests.unit.services.safety.test_evaluator import RecordingScorer
from tests.unit.services.safety.test_response_guard import MAIL, MailScorer

POLICY = load_policy(DEFAULT_POLICY)


def error(problem: str, *extra: tuple[str, str]) -> aio.AioRpcError:
    """Return the mission's error about a field."""
    status = rpc_status.to_status(to_status(InvalidArgumentError("stop", problem), {}))
    trailing = aio.Metadata(*status.trailing_metadata, *extra)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


def evaluator(toxicity: float = 0.0) -> PolicyEvaluator:
    """Return an evaluator with scorers in memory."""
    return PolicyEvaluator(RecordingScorer(toxicity), MailScorer(), lambda: POLICY)


async def received(err: aio.AioRpcError, judge: PolicyEvaluator) -> aio.AioRpcError:
    """Return the error that the client gets."""
    filtered = await filter_error(err, judge)
    trailing = aio.Metadata(*filtered.trailing_metadata)
    return aio.AioRpcError(err.code(), aio.Metadata(), trailing, details=filtered.message)


async def test_harmless_error_keeps_its_details() -> None:
    """Code, message and field reach the client; metadata of its own does not."""
    passed = await received(error("is too long", ("note", "x")), evaluator())
    found = details_of(passed)

    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, "stop")
    assert found.message == "stop: is too long"
    assert "note" not in dict(passed.trailing_metadata() or ())


async def test_finding_is_redacted_in_message_and_details() -> None:
    """Nothing of the address is in the whole error."""
    passed = await received(error(f"may not quote {MAIL}"), evaluator())
    raw = repr(passed.trailing_metadata())

    assert details_of(passed).message == "stop: may not quote [EMAIL_ADDRESS]"
    assert "jane" not in raw
    assert "EMAIL_ADDRESS" in raw


async def test_violating_error_is_withheld() -> None:
    """Only the status code is left."""
    passed = await received(error("you"), evaluator(toxicity=1.0))

    assert "you" not in details_of(passed).message.split()
    assert details_of(passed).field is None


async def test_error_without_text_passes() -> None:
    """There is nothing to judge."""
    bare = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata())

    assert details_of(await received(bare, evaluator())).code is grpc.StatusCode.UNAVAILABLE
