"""Reasons of withheld text in the form of Azure's content filter."""

from typing import Any

import grpc
from bem_fleet.services.gateway.withheld import (
    content_filter_headers,
    prompt_filter_results,
    withheld_by,
    withheld_output,
)
from bemfleet.router.v1 import router_pb2 as pb
from fleet.errors import DeniedError, UnavailableError, to_status
from fleet.wire import CONTENT_FILTER, CONTENT_FILTERED
from grpc import aio
from grpc_status import rpc_status

METADATA = {
    "side": "request",
    "category": "harm",
    "constraint": "harmlessness",
    "score": "0.912",
    "threshold": "0.800",
    "severity": "1.000",
    "reason": "the request was blocked: it violates harmlessness (harm)",
}


def error(err: Exception) -> aio.AioRpcError:
    """Return an error as a caller gets it."""
    status = rpc_status.to_status(to_status(err, {}))
    trailing = aio.Metadata(*status.trailing_metadata)
    return aio.AioRpcError(status.code, aio.Metadata(), trailing, details=status.details)


def denied(**metadata: str) -> aio.AioRpcError:
    """Return the sidecar's error."""
    return error(DeniedError("withheld", CONTENT_FILTERED, {**METADATA, **metadata}))


class Stub:
    """Counts seven tokens, or fails."""

    def __init__(self, failure: grpc.RpcError | None = None) -> None:
        self.failure = failure
        self.calls = 0

    async def stable_unary(self, _path: str, _request: bytes, **_: Any) -> bytes:
        """Return the count."""
        self.calls += 1
        if self.failure:
            raise self.failure
        usage = pb.Usage(prompt_tokens=7)
        return pb.CountTokensResponse(usage=usage, model_version="v").SerializeToString()


def test_reason_has_category_level_score_and_words() -> None:
    """The level is the weight of the rule times the score."""
    reason = withheld_by(denied())

    assert reason is not None
    assert reason.content_filter_result() == {
        "harm": {
            "filtered": True,
            "detected": True,
            "severity": "high",
            "score": 0.912,
            "threshold": 0.8,
            "constraint": "harmlessness",
            "side": "request",
            "reason": METADATA["reason"],
        }
    }
    mild = withheld_by(denied(severity="0.3", score="x"))
    assert mild is not None
    assert mild.content_filter_result()["harm"]["severity"] == "low"


def test_other_errors_have_no_reason_and_an_old_sidecar_s_has_few() -> None:
    """A missing category still says that the content was the cause."""
    bare = withheld_by(error(DeniedError("withheld", CONTENT_FILTERED, {})))

    assert withheld_by(error(UnavailableError("away"))) is None
    assert bare is not None
    assert (bare.category, bare.side, bare.reason) == ("content", "response", "withheld")


def test_header_and_prompts_name_each_withheld_choice() -> None:
    """Choices of one prompt are reported once in the body, and each in the header."""
    reason = withheld_by(denied())
    choices = [(0, None), (1, None), (2, reason), (3, reason)]

    assert content_filter_headers(choices)[CONTENT_FILTER] == ", ".join(
        f"side=request; category=harm; constraint=harmlessness; score=0.912; choice={index}"
        for index in (2, 3)
    )
    assert content_filter_headers(choices[:2]) == {}
    assert [one["prompt_index"] for one in prompt_filter_results(choices, 2)] == [1]


async def test_counts_come_from_the_mission() -> None:
    """Those of a withheld answer with its error, those of a blocked request by CountTokens."""
    computed = withheld_by(
        denied(side="response", prompt_tokens="5", completion_tokens="3", model_version="w")
    )
    blocked = withheld_by(denied())
    assert computed is not None
    assert blocked is not None
    stub: Any = Stub()
    known = await withheld_output(stub, pb.GenerateRequest(), computed)
    counted = await withheld_output(stub, pb.GenerateRequest(), blocked)
    failing: Any = Stub(error(UnavailableError("away")))
    unknown = await withheld_output(failing, pb.GenerateRequest(), blocked)

    assert (known.usage.prompt_tokens, known.usage.completion_tokens) == (5, 3)
    assert known.model_version == "w"
    assert (counted.usage.prompt_tokens, counted.model_version) == (7, "v")
    assert (stub.calls, unknown.usage.prompt_tokens) == (1, 0)
