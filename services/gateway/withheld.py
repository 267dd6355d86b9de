"""Withheld text: why the safety sidecar withheld it, in the form of Azure's content filter."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bemfleet.router.v1 import router_pb2 as pb
from fleet import wire
from fleet.clients import outgoing_metadata
from fleet.errors import ErrorDetails, details_of

_COUNT = f"/{pb.DESCRIPTOR.services_by_name['RouterService'].full_name}/CountTokens"
_COUNT_TIMEOUT_S = 10.0
# Azure's levels, by the weight of the rule times its score.
_LEVELS = ((2 / 3, "high"), (1 / 3, "medium"))


@dataclass(frozen=True)
class Withheld:
    """Reason of the sidecar.

    Attributes:
        side: ``request`` if the request was blocked, ``response`` if the answer was withheld.
        category: Scorer whose rule was violated, such as ``toxicity``.
        constraint: Constraint of the rule.
        score: Score of the text, 0 to 1.
        threshold: Lowest score that violates the rule, 0 to 1.
        severity: Weight of the rule, 0 to 1.
        reason: Sentence for people.
        usage: Token counts of what was computed, as far as the mission reported them.
        model_version: Version that answered; empty if the mission did not report it.
    """

    side: str
    category: str
    constraint: str
    score: float
    threshold: float
    severity: float
    reason: str
    usage: pb.Usage
    model_version: str

    def content_filter_result(self) -> dict[str, Any]:
        """Return the violated category with its level, as Azure's content filter reports it."""
        weight = self.severity * self.score
        level = next((name for limit, name in _LEVELS if weight >= limit), "low")
        return {
            self.category: {
                "filtered": True,
                "detected": True,
                "severity": level,
                "score": self.score,
                "threshold": self.threshold,
                "constraint": self.constraint,
                "side": self.side,
                "reason": self.reason,
            }
        }

    def header(self) -> str:
        """Return the value of the header ``X-Bem-Content-Filter``."""
        return (
            f"side={self.side}; category={self.category}; constraint={self.constraint}; "
            f"score={self.score:.3f}"
        )


def withheld_by(err: grpc.RpcError) -> Withheld | None:
    """Return the reason of the sidecar; None if the error has another cause."""
    details = details_of(err)
    return withheld_of(details) if details.reason == wire.CONTENT_FILTERED else None


def withheld_of(details: ErrorDetails) -> Withheld:
    """Return the reason in the details of an error of the sidecar."""
    metadata = details.metadata
    return Withheld(
        metadata.get("side", "response"),
        metadata.get("category") or "content",
        metadata.get("constraint", ""),
        _number(metadata, "score"),
        _number(metadata, "threshold"),
        _number(metadata, "severity"),
        metadata.get("reason") or details.message,
        pb.Usage(
            prompt_tokens=int(_number(metadata, "prompt_tokens")),
            completion_tokens=int(_number(metadata, "completion_tokens")),
        ),
        metadata.get("model_version", ""),
    )


def _number(metadata: Mapping[str, str], name: str) -> float:
    try:
        return float(metadata.get(name, "0"))
    except ValueError:
        return 0.0


def content_filter_headers(choices: Iterable[tuple[int, Withheld | None]]) -> dict[str, str]:
    """Return the response header of withheld choices, by index; nothing if none is withheld."""
    values = [f"{one.header()}; choice={index}" for index, one in choices if one is not None]
    return {wire.CONTENT_FILTER: ", ".join(values)} if values else {}


def prompt_filter_results(
    choices: Iterable[tuple[int, Withheld | None]], choices_per_prompt: int
) -> list[dict[str, Any]]:
    """Return one entry for each blocked prompt, as Azure reports them."""
    results = {
        index // choices_per_prompt: one.content_filter_result()
        for index, one in choices
        if one is not None and one.side == "request"
    }
    return [
        {"prompt_index": index, "content_filter_results": result}
        for index, result in sorted(results.items())
    ]


async def withheld_output(
    stub: CanaryStub, request: pb.GenerateRequest, reason: Withheld
) -> pb.GenerateResponse:
    """Return the end of a withheld choice, with the token counts and the model version.

    A blocked request never reached the mission, which then only counts its tokens.
    """
    usage, version = reason.usage, reason.model_version
    if not usage.prompt_tokens:
        counted = await _count_tokens(stub, request)
        usage = pb.Usage(
            prompt_tokens=counted.usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )
        version = version or counted.model_version
    return pb.GenerateResponse(usage=usage, model_version=version)


async def _count_tokens(stub: CanaryStub, request: pb.GenerateRequest) -> pb.CountTokensResponse:
    try:
        response = await stub.stable_unary(
            _COUNT,
            pb.CountTokensRequest(request=request).SerializeToString(),
            timeout_s=_COUNT_TIMEOUT_S,
            metadata=outgoing_metadata(),
        )
    except grpc.RpcError:  # the request is too long, or its model is gone: it has no count
        return pb.CountTokensResponse()
    return pb.CountTokensResponse.FromString(response)
