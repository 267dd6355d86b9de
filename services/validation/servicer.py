"""ValidationService: parses requests, calls claim service and canary analyzer, builds responses."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from bem.errors import InvalidScoresError
from bem_fleet.acceptance.score_report import PairedScores
from bem_fleet.services.validation import request_parsing, responses
from bem_fleet.services.validation.canary_analysis import CanaryAnalyzer
from bem_fleet.services.validation.canary_request_parsing import parse_analysis_request
from bem_fleet.services.validation.claim_service import ClaimService
from bem_fleet.services.validation.claims import Comparison
from bem_fleet.services.validation.score_upload import ScoreUpload, read_scores
from bem_fleet.services.validation.settings import ValidationSettings
from bemfleet.validation.v1 import validation_pb2 as pb
from bemfleet.validation.v1 import validation_pb2_grpc as rpc
from fleet.errors import InvalidArgumentError, StatusTable
from grpc import aio

SERVICE = pb.DESCRIPTOR.services_by_name["ValidationService"].full_name
MAX_PAGE_SIZE = 1000


class UploadTimeoutError(Exception):
    """A streamed upload took longer than the setting allows."""


STATUS: StatusTable = {
    InvalidScoresError: grpc.StatusCode.INVALID_ARGUMENT,
    UploadTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Context = aio.ServicerContext


class ValidationServicer(rpc.ValidationServiceServicer):
    """Serves ValidationService.

    Args:
        claims: Comparisons, gates and the ledger of claims.
        canaries: Canary analysis.
        settings: Limits of uploads.
    """

    def __init__(
        self, claims: ClaimService, canaries: CanaryAnalyzer, settings: ValidationSettings
    ) -> None:
        self._claims = claims
        self._canaries = canaries
        self._metrics = claims.catalogue.metrics
        self._settings = settings

    async def Compare(
        self,
        request: pb.CompareRequest,
        context: Context[Any, Any],  # noqa: ARG002 - the signature is gRPC's
    ) -> pb.CompareResponse:
        """Compare scores of one message."""
        with self._claims.pool.slot():
            scores = read_scores([request.scores], self._metrics, self._settings.max_scores)
            parsed = self._parse_comparison(request.head, scores)
            return responses.compare_response(await self._claims.compare(parsed))

    async def CompareStream(
        self,
        request_iterator: AsyncIterator[pb.CompareStreamRequest],
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.CompareStreamResponse:
        """Compare streamed scores."""
        with self._claims.pool.slot():
            async with _limit_upload(self._settings.upload_timeout_s):
                head = (await _read_head(request_iterator)).head
                upload = ScoreUpload([head.shape], self._metrics, self._settings.max_scores)
                scores = await upload.read(_chunks(request_iterator))
            parsed = self._parse_comparison(head.compare, scores)
            result = responses.compare_response(await self._claims.compare(parsed))
        return pb.CompareStreamResponse(result=result)

    async def Gate(
        self,
        request: pb.GateRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GateResponse:
        """Evaluate a gate on scores of one message."""
        with self._claims.pool.slot():
            gate = request_parsing.resolve_gate(request.head, self._claims.catalogue)
            scores = read_scores(request.scores, self._metrics, self._settings.max_scores)
            parsed = request_parsing.parse_gate_check(request.head, gate, scores)
            return responses.gate_response(await self._claims.gate(parsed))

    async def GateStream(
        self,
        request_iterator: AsyncIterator[pb.GateStreamRequest],
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.GateStreamResponse:
        """Evaluate a gate on streamed scores."""
        with self._claims.pool.slot():
            async with _limit_upload(self._settings.upload_timeout_s):
                head = (await _read_head(request_iterator)).head
                gate = request_parsing.resolve_gate(head.gate, self._claims.catalogue)
                upload = ScoreUpload(head.shapes, self._metrics, self._settings.max_scores)
                scores = await upload.read(_chunks(request_iterator))
            parsed = request_parsing.parse_gate_check(head.gate, gate, scores)
            result = responses.gate_response(await self._claims.gate(parsed))
        return pb.GateStreamResponse(result=result)

    async def DeclareFamily(
        self,
        request: pb.DeclareFamilyRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.DeclareFamilyResponse:
        """Declare a family of claims before their data."""
        name, members = request_parsing.parse_family(request, self._claims.catalogue)
        return responses.family_response(await self._claims.declare(name, members))

    async def Correct(
        self,
        request: pb.CorrectRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.CorrectResponse:
        """Adjust p-values; nothing is recorded."""
        result = await self._claims.correct(
            request_parsing.parse_p_values(request.given),
            family=request_parsing.parse_correction_family(request),
            alpha=request_parsing.parse_rate(request),
            dependent=request.correction == pb.CORRECTION_BENJAMINI_YEKUTIELI,
        )
        return responses.correct_response(result)

    async def ListClaims(
        self,
        request: pb.ListClaimsRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.ListClaimsResponse:
        """List recorded claims, oldest first."""
        if not 0 <= request.limit <= MAX_PAGE_SIZE:
            raise InvalidArgumentError(
                "limit", f"{request.limit} is out of range; 0 to {MAX_PAGE_SIZE} is allowed"
            )
        return responses.claims_response(
            *await self._claims.claims(request.after, request.limit or 100)
        )

    async def AnalyzeCanary(
        self,
        request: pb.AnalyzeCanaryRequest,
        context: Context[Any, Any],  # noqa: ARG002
    ) -> pb.AnalyzeCanaryResponse:
        """Analyze all observations of a canary so far."""
        settings = self._settings
        parsed = parse_analysis_request(request, settings.missions, settings.canaries)
        return responses.canary_response(
            await self._canaries.analyze(parsed.id, parsed.terms, parsed.probes, parsed.targets)
        )

    def _parse_comparison(
        self, head: pb.CompareHead, scores: Mapping[str, PairedScores]
    ) -> Comparison:
        return request_parsing.parse_comparison(head, scores, self._claims.catalogue)


@asynccontextmanager
async def _limit_upload(limit_s: float) -> AsyncIterator[None]:
    """Abort an upload that takes too long, because it occupies a slot that others wait for."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as err:
        raise UploadTimeoutError(
            f"upload: took longer than {limit_s:g} s; send larger chunks or fewer scores"
        ) from err


async def _read_head(requests: AsyncIterator[Any]) -> Any:
    """Return the first message of a stream.

    Raises:
        InvalidArgumentError: The stream is empty, or its first message is not a head.
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
