"""Servicer of ``bemfleet.sep.v1.SepService``: messages in, host calls, messages out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import time
from typing import Any

from bem_fleet.services.sep.answer_sensitivity import SensitivityInquiry, answer_sensitivity
from bem_fleet.services.sep.metrics import EMBEDDED, REQUESTS, SECONDS, SENSITIVITY
from bem_fleet.services.sep.text_embedding import MODEL, TextEmbedder
from bem_fleet.serving import STATUS
from bemfleet.sep.v1 import sep_pb2 as pb
from bemfleet.sep.v1 import sep_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError, NotFoundError, UnavailableError
from grpc import aio

__all__ = ["STATUS", "EmbedderHolder", "SepServicer"]

DEFAULT_TOKENS, MAX_TOKENS = 64, 256
MAX_INPUTS = 64
DEFAULT_REWRITES, MAX_REWRITES = 4, 8
DEFAULT_RATE = 0.15
DEFAULT_ANSWER_TOKENS, MAX_ANSWER_TOKENS = 16, 64
_MAX_SEED = 2**63 - 1

Context = aio.ServicerContext


class EmbedderHolder:
    """Embedder and engine host of a service that is reachable before its model is loaded."""

    def __init__(self) -> None:
        self.embedder: TextEmbedder | None = None

    def get(self) -> TextEmbedder:
        """Return the embedder.

        Raises:
            UnavailableError: The model is still loading.
        """
        if self.embedder is None:
            raise UnavailableError("the model is still loading; retry later", retry_after_s=2.0)
        return self.embedder


class SepServicer(rpc.SepServiceServicer):
    """Serves SepService.

    Args:
        holder: Holder of the embedder, which has the engine host.
    """

    def __init__(self, holder: EmbedderHolder) -> None:
        self._holder = holder

    async def Generate(
        self, request: pb.GenerateRequest, context: Context[Any, Any]
    ) -> pb.GenerateResponse:
        """Answer one user message."""
        tokens = request.max_tokens if request.HasField("max_tokens") else DEFAULT_TOKENS
        _check_range("max_tokens", tokens, 1, MAX_TOKENS)
        host = self._holder.get().host
        with SECONDS.labels("Generate").time():
            done = await host.generate(
                request.prompt,
                model=request.model,
                max_tokens=tokens,
                deadline=_deadline(context),
            )
        REQUESTS.labels("Generate").inc()
        return pb.GenerateResponse(
            text=done.text,
            model_version=done.model_version,
            completion_tokens=done.completion_tokens,
        )

    async def Embed(
        self,
        request: pb.EmbedRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.EmbedResponse:
        """Return the embeddings of texts."""
        embedder = self._holder.get()
        if request.model not in ("", MODEL):
            raise NotFoundError(
                f"model: {request.model[:64]!r} is no embedding model; served: {MODEL}; name it"
            )
        _check_range("inputs", len(request.inputs), 1, MAX_INPUTS)
        dimensions = request.dimensions if request.HasField("dimensions") else None
        with SECONDS.labels("Embed").time():
            found = await embedder.embed([_input(one) for one in request.inputs], dimensions)
        REQUESTS.labels("Embed").inc()
        EMBEDDED.inc(found.tokens)
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=row) for row in found.embeddings.tolist()],
            prompt_tokens=found.tokens,
            model_version=embedder.host.backbone.model_version(""),
        )

    async def Sensitivity(
        self, request: pb.SensitivityRequest, context: Context[Any, Any]
    ) -> pb.SensitivityResponse:
        """Measure how much an answer depends on the surface of its message."""
        inquiry = _inquiry(request)
        host = self._holder.get().host
        with SECONDS.labels("Sensitivity").time():
            found = await answer_sensitivity(host, inquiry, _deadline(context))
        REQUESTS.labels("Sensitivity").inc()
        SENSITIVITY.observe(found.score)
        return pb.SensitivityResponse(
            score=found.score,
            changed=found.changed,
            answer=found.answer.text,
            rewrites=[
                pb.Rewrite(kind=one.kind, prompt=one.text, answer=answer)
                for one, answer in zip(found.rewrites, found.answers, strict=True)
            ],
            model_version=found.answer.model_version,
            completion_tokens=found.tokens,
        )


def _inquiry(request: pb.SensitivityRequest) -> SensitivityInquiry:
    rewrites = request.rewrites if request.HasField("rewrites") else DEFAULT_REWRITES
    rate = request.rate if request.HasField("rate") else DEFAULT_RATE
    tokens = request.max_tokens if request.HasField("max_tokens") else DEFAULT_ANSWER_TOKENS
    _check_range("rewrites", rewrites, 1, MAX_REWRITES)
    _check_range("seed", request.seed, 0, _MAX_SEED)
    _check_range("max_tokens", tokens, 1, MAX_ANSWER_TOKENS)
    if not 0 < rate <= 1:
        raise InvalidArgumentError("rate", f"{rate:g} is out of range; it lies in (0, 1]")
    return SensitivityInquiry(
        prompt=request.prompt,
        model=request.model,
        rewrites=rewrites,
        seed=request.seed,
        rate=rate,
        max_tokens=tokens,
    )


def _input(one: pb.EmbedInput) -> str | list[int]:
    return list(one.tokens.ids) if one.WhichOneof("input") == "tokens" else one.text


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidArgumentError(
            field, f"{value:g} is out of range; the limits are {low:g} and {high:g}"
        )


def _deadline(context: Context[Any, Any]) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
