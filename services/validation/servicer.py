"""ValidationService: protobuf in, the examiner's finding, protobuf out."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from bem.errors import InvalidScoresError
from bem_fleet.services.validation import answers, questions
from bem_fleet.services.validation.canaries import Canaries
from bem_fleet.services.validation.canary_questions import canary_question
from bem_fleet.services.validation.examiner import Examiner
from bem_fleet.services.validation.settings import ValidationSettings
from bem_fleet.services.validation.uploads import Upload, whole
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError, StatusTable
from grpc import aio

# Messages of a refused upload that are read to its end.
_DROPPED_MESSAGES = 1000
SERVICE = pb.DESCRIPTOR.services_by_name["ValidationService"].full_name
MAX_PAGE = 1000


class UploadTimeoutError(Exception):
    """A streamed upload took longer than the setting allows."""


STATUS: StatusTable = {
    InvalidScoresError: grpc.StatusCode.INVALID_ARGUMENT,
    UploadTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Context = aio.ServicerContext


class ValidationServicer(rpc.ValidationServiceServicer):
    """Answers with the examiner's findings."""

    def __init__(
        self, examiner: Examiner, canaries: Canaries, settings: ValidationSettings
    ) -> None:
        self._examiner = examiner
        self._canaries = canaries
        self._metrics = examiner.catalogue.metrics
        self._settings = settings

    async def Compare(
        self,
        request: pb.CompareRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.CompareResponse:
        """Compare scores that came in one message."""
        with self._examiner.desk.place():
            scores = whole([request.scores], self._metrics, self._settings.max_scores)
            asked = questions.comparison(request.head, scores)
            return answers.compared(await self._examiner.compare(asked))

    async def CompareStream(
        self,
        request_iterator: AsyncIterator[pb.CompareStreamRequest],
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.CompareStreamResponse:
        """Compare scores that come in chunks."""
        with self._examiner.desk.place():
            async with _uploading(request_iterator, self._settings.upload_timeout_s):
                head = (await _head(request_iterator)).head
                upload = Upload([head.shape], self._metrics, self._settings.max_scores)
                scores = await upload.read(_chunks(request_iterator))
            asked = questions.comparison(head.compare, scores)
            found = answers.compared(await self._examiner.compare(asked))
        return pb.CompareStreamResponse(result=found)

    async def Gate(
        self,
        request: pb.GateRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GateResponse:
        """Judge scores that came in one message."""
        with self._examiner.desk.place():
            gate = questions.gate_of(request.head, self._examiner.catalogue)
            scores = whole(request.scores, self._metrics, self._settings.max_scores)
            asked = questions.gate_question(request.head, gate, scores)
            return answers.judged(await self._examiner.gate(asked))

    async def GateStream(
        self,
        request_iterator: AsyncIterator[pb.GateStreamRequest],
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GateStreamResponse:
        """Judge scores that come in chunks."""
        with self._examiner.desk.place():
            async with _uploading(request_iterator, self._settings.upload_timeout_s):
                head = (await _head(request_iterator)).head
                gate = questions.gate_of(head.gate, self._examiner.catalogue)
                upload = Upload(head.shapes, self._metrics, self._settings.max_scores)
                scores = await upload.read(_chunks(request_iterator))
            asked = questions.gate_question(head.gate, gate, scores)
            found = answers.judged(await self._examiner.gate(asked))
        return pb.GateStreamResponse(result=found)

    async def Correct(
        self,
        request: pb.CorrectRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.CorrectResponse:
        """Adjust p-values; nothing is recorded."""
        found = await self._examiner.correct(
            questions.given_p(request.given),
            family=request.with_family or not request.given,
            alpha=questions.rate(request),
            dependent=request.correction == pb.CORRECTION_BENJAMINI_YEKUTIELI,
        )
        return answers.corrected(found)

    async def ListClaims(
        self,
        request: pb.ListClaimsRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.ListClaimsResponse:
        """List recorded claims, oldest first."""
        if not 0 <= request.limit <= MAX_PAGE:
            raise InvalidArgumentError("limit", f"is {request.limit}; 0 to {MAX_PAGE} are allowed")
        claims, more = await self._examiner.claims(request.after, request.limit or 100)
        return pb.ListClaimsResponse(
            claims=[answers.listed(claim) for claim in claims], has_more=more
        )

    async def JudgeCanary(
        self,
        request: pb.JudgeCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.JudgeCanaryResponse:
        """Judge a canary by what is observed of it so far."""
        asked = canary_question(request)
        return answers.canary(
            await self._canaries.judge(asked.id, asked.terms, asked.probes, asked.sides)
        )


@asynccontextmanager
async def _uploading(requests: AsyncIterator[Any], limit_s: float) -> AsyncIterator[None]:
    """End an upload that takes too long: it holds a place that others wait for.

    What follows a refusal is read and dropped, up to a bound: a client that is cut off in the
    middle of a write may see a broken stream instead of the reason.
    """
    try:
        async with asyncio.timeout(limit_s):
            try:
                yield
            except InvalidArgumentError:
                left = _DROPPED_MESSAGES
                while left and await anext(requests, None) is not None:
                    left -= 1
                raise
    except TimeoutError as err:
        raise UploadTimeoutError(f"the upload took longer than {limit_s:g} s") from err


async def _head(requests: AsyncIterator[Any]) -> Any:
    """Return the first message of a stream.

    Raises:
        InvalidArgumentError: There is none, or it is no head.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "head":
        raise InvalidArgumentError("head", "the first message of the stream must be the head")
    return first


async def _chunks(requests: AsyncIterator[Any]) -> AsyncIterator[pb.ScoreChunk]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgumentError("chunk", "all messages after the head must be chunks")
        yield request.chunk
