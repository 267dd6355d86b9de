"""Tests of the translation between protobuf and model host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from bem.engine import OutputDelta, TokenLogprob, TopLogprob
from bem.errors import BemError, InvalidRequestError
from bem.testing import tiny_backbone
from bem_fleet.services.router.model_host import LazyModelHost, ModelHost
from bem_fleet.services.router.request_parsing import RequestedStrength
from bem_fleet.services.router.servicer import (
    STATUS,
    RouterServicer,
    deadline_of,
    safety_strength_of,
)
from bemfleet.router.v1 import router_pb2 as pb

from tests.unit.services.router.fake_engine import DELTAS, FakeEngine


class Context:
    """A call's context."""

    def __init__(self, remaining: float | None = None, **metadata: str) -> None:
        self._remaining, self._metadata = remaining, metadata

    def time_remaining(self) -> float | None:
        """Return the time left."""
        return self._remaining

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers."""
        return tuple((name.replace("_", "-"), value) for name, value in self._metadata.items())


def servicer_of(*deltas: OutputDelta) -> Any:
    """A servicer whose engine gives these deltas."""
    lazy = LazyModelHost()
    lazy.loaded = ModelHost(tiny_backbone(), FakeEngine(deltas or DELTAS), Path())
    return RouterServicer(lazy)


async def test_the_first_response_names_the_served_version() -> None:
    """Later responses leave the version out; each has the usage so far, the last one a reason."""
    request = pb.GenerateRequest(prompt="hello")
    responses = [one async for one in servicer_of().Generate(request, Context())]

    assert [one.model_version.partition("+")[2] for one in responses] == ["b" * 12, ""]
    assert responses[-1].finish_reason == pb.FINISH_REASON_STOP
    assert responses[0].usage == pb.Usage(prompt_tokens=5, completion_tokens=1)
    assert responses[-1].usage == pb.Usage(prompt_tokens=5, completion_tokens=2)


async def test_a_complete_response_has_everything() -> None:
    """Text, version, usage and log-probabilities are in one message."""
    top = (TopLogprob(1, b"a", -0.1),)
    delta = OutputDelta("a", 1, "length", (TokenLogprob(1, b"a", -0.1, top),))
    request = pb.CompleteRequest(request=pb.GenerateRequest(prompt="x"))
    response = await servicer_of(delta).Complete(request, Context())

    assert (response.text, response.finish_reason) == ("a", pb.FINISH_REASON_LENGTH)
    assert "+" not in response.model_version
    assert response.logprobs[0].chosen.token == b"a"
    assert response.logprobs[0].top[0].logprob == pytest.approx(-0.1)


async def test_tokens_are_counted_without_the_engine() -> None:
    """As many as a generated answer reports."""
    request = pb.GenerateRequest(prompt="hello")
    counted = await servicer_of().CountTokens(pb.CountTokensRequest(request=request), Context())

    assert counted.usage == pb.Usage(prompt_tokens=5)
    assert counted.model_version
    assert "+" not in counted.model_version


def test_deadline_and_header_come_from_the_context() -> None:
    """A call without deadline waits; the header is checked."""
    no_deadline: Any = Context()
    five_seconds: Any = Context(5.0, bem_safety_strength="0.5")
    wrong: Any = Context(bem_safety_strength="-1")
    assert deadline_of(no_deadline) is None
    assert deadline_of(five_seconds) == pytest.approx(time.monotonic() + 5, abs=1)
    assert safety_strength_of(no_deadline) == RequestedStrength()
    assert safety_strength_of(five_seconds) == RequestedStrength(0.5)
    with pytest.raises(InvalidRequestError):
        safety_strength_of(wrong)


def test_errors_map_to_status_codes() -> None:
    """Every error of the table is an error of the model library."""
    assert all(issubclass(error, BemError) for error in STATUS)
    assert STATUS[InvalidRequestError] is grpc.StatusCode.INVALID_ARGUMENT
