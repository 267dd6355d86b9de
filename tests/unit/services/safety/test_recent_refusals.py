"""Refusals of the mission that the sidecar repeats by itself for a moment."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Iterator
from dataclasses import replace

import pytest
from bem_fleet.services.safety.recent_refusals import RecentRefusals
from fleet.access import principal
from fleet.access.principal import ANONYMOUS
from fleet.call_priority import yields
from fleet.errors import InvalidArgumentError, OverloadedError, to_status
from grpc import StatusCode, aio
from grpc_status import rpc_status

PATH = "/bemfleet.router.v1.RouterService/Complete"


def error(cause: Exception) -> aio.AioRpcError:
    """Return an error as the mission sends it."""
    status = rpc_status.to_status(to_status(cause, {}))
    trailing = aio.Metadata(*(status.trailing_metadata or ()))
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


BUSY = error(OverloadedError("the queue is full", 5.0))


@pytest.fixture(autouse=True)
def caller() -> Iterator[None]:
    """Calls of one client."""
    token = principal.set(replace(ANONYMOUS, name="one"))
    yield
    principal.reset(token)


def refusal(refusals: RecentRefusals, path: str = PATH) -> float | None:
    """Return the delay that a refused call is told; None for a call that is not refused."""
    try:
        refusals.check(path)
    except OverloadedError as err:
        return err.retry_after_s
    return None


def test_what_was_just_refused_is_refused_again() -> None:
    """For a quarter of a second, whatever the delay, and the same method only."""
    now = [0.0]
    refusals = RecentRefusals(lambda: now[0])
    refusals.note(PATH, BUSY)
    found = [refusal(refusals, "/other")]
    for now[0] in (0.0, 0.2, 0.25):
        found.append(refusal(refusals))

    assert found == [None, 5.0, 5.0, None]


def test_another_client_is_served() -> None:
    """A client that sends too much loses its own requests only."""
    refusals = RecentRefusals()
    refusals.note(PATH, BUSY)
    principal.set(replace(ANONYMOUS, name="two"))

    assert refusal(refusals) is None


def test_a_mirrored_call_refuses_nothing_to_its_client() -> None:
    """It is refused while there is room for others, and the gateway pauses it."""
    refusals = RecentRefusals()
    token = yields.set(True)
    refusals.note(PATH, BUSY)
    yields.reset(token)

    assert refusal(refusals) is None


@pytest.mark.parametrize(
    "err",
    [
        error(InvalidArgumentError("prompt", "is too long")),
        aio.AioRpcError(StatusCode.RESOURCE_EXHAUSTED, aio.Metadata(), aio.Metadata()),
    ],
    ids=["another error", "a limit without a delay"],
)
def test_other_errors_refuse_nothing(err: aio.AioRpcError) -> None:
    """Only a full queue names a delay."""
    refusals = RecentRefusals()
    refusals.note(PATH, err)

    assert refusal(refusals) is None
