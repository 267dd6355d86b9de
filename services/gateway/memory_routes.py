"""Memory routes: documents of mission memory and questions about them.

A document longer than a request's body is sent in several requests with ``end`` false, each with
the ``offset`` that the one before acknowledged. Text of documents is data: it goes to the mission
as it is.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.event_stream import DONE, EventStreamResponse, encode_event
from bem_fleet.services.gateway.missions import MissionClient
from bem_fleet.services.gateway.request_context import session_of, until_disconnect
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bem_fleet.services.gateway.transcoding import to_json
from bemfleet.memory.v1 import memory_pb2 as pb
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet import logs
from fleet.access import Role
from fleet.access.limits import admission
from fleet.clients import outgoing_metadata
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field

routes = APIRouter(prefix="/v1/memory", route_class=JsonBodyRoute)

MISSION = "memory"
PART_CHARS = 32_768
"""Characters of one text of the mission's stream."""

_SERVICE = pb.DESCRIPTOR.services_by_name["MemoryService"].full_name
_INTEGERS = (
    *("acknowledged", "sentences", "kept", "evicted", "begin", "end", "characters", "next"),
    *("budget_bytes", "expires_unix_s"),
)


class _MemoryBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class IngestBody(_MemoryBody):
    """Body of ``POST /v1/memory/ingest``.

    Attributes:
        session: Name of the session.
        document: Name of the document.
        text: Text of the document, or its next part.
        offset: Characters of the document that were acknowledged before.
        end: Whether the document ends with the text.
        budget_bytes: Bytes of a new session; None for the mission's default.
    """

    session: str = Field(max_length=64)
    document: str = Field(max_length=120)
    text: str
    offset: int = Field(0, ge=0, lt=2**32)
    end: bool = True
    budget_bytes: int | None = Field(None, ge=0, lt=2**32)


class QueryBody(_MemoryBody):
    """Body of ``POST /v1/memory/query``.

    Attributes:
        session: Name of the session.
        question: The question.
        hops: Hops of the retrieval; None for the mission's default.
        max_tokens: Tokens of the answer; 0 returns the citations alone.
        threshold: Smallest confidence with which something counts as found.
        model: Base model or adapter that answers.
        stream: Whether each cited span and the outcome are events.
    """

    session: str = Field(max_length=64)
    question: str = Field(max_length=8192)
    hops: int | None = Field(None, ge=0, le=100)
    max_tokens: int | None = Field(None, ge=0, le=1_000_000)
    threshold: float | None = None
    model: str = Field("", max_length=128)
    stream: bool = False


class CoverageBody(_MemoryBody):
    """Body of ``POST /v1/memory/coverage``.

    Attributes:
        session: Name of the session.
        after: Value of ``next`` of the page before.
        limit: Sentences to look at; None for the mission's default.
    """

    session: str = Field(max_length=64)
    after: int = Field(0, ge=0, lt=2**32)
    limit: int | None = Field(None, ge=0, le=1_000_000)


class SessionsBody(_MemoryBody):
    """Body of ``POST /v1/memory/sessions``: an empty object."""


class ForgetBody(_MemoryBody):
    """Body of ``POST /v1/memory/forget``.

    Attributes:
        session: Name of the session.
        document: Name of the document; empty for the whole session.
    """

    session: str = Field(max_length=64)
    document: str = Field("", max_length=120)


@routes.post("/ingest")
@requires(Role.USER)
async def ingest(request: Request, body: IngestBody) -> Response:
    """Read a document, or its next part, into a session; answered once it is durable."""
    mission = _mission(request)
    async with mission.router.hold():
        call = mission.exchange(
            f"/{_SERVICE}/Ingest",
            _messages(body),
            timeout_s=state_of(request).settings.request_timeout_s,
            metadata=outgoing_metadata(),
        )
        try:
            with _session_errors():
                last = await until_disconnect(request.receive, _last_progress(call))
        finally:
            call.cancel()
    return JSONResponse({"object": "memory.progress", **_json(last)})


@routes.post("/query")
@requires(Role.USER)
async def query(request: Request, body: QueryBody) -> Response:
    """Answer a question with citations."""
    fields = body.model_dump(exclude={"stream"}, exclude_none=True)
    responses = _stub(request).stream(
        f"/{_SERVICE}/Query",
        pb.QueryRequest(**fields).SerializeToString(),
        timeout_s=state_of(request).settings.request_timeout_s,
        metadata=outgoing_metadata(),
    )
    if body.stream:
        # Before the HTTP response begins, so that an early error still has its status.
        with _session_errors():
            first = await until_disconnect(request.receive, anext(responses, None))
        return EventStreamResponse(_events(first, responses))
    with _session_errors():
        return JSONResponse(await until_disconnect(request.receive, _answer(responses)))


@routes.post("/coverage")
@requires(Role.USER)
async def coverage(request: Request, body: CoverageBody) -> Response:
    """List what a session still knows."""
    message = pb.CoverageRequest(**body.model_dump(exclude_none=True))
    response = await _unary(request, "Coverage", message, pb.CoverageResponse)
    return JSONResponse({"object": "memory.coverage", **_json(response)})


@routes.post("/sessions")
@requires(Role.USER)
async def sessions(request: Request, body: SessionsBody) -> Response:
    """List the caller's sessions."""
    del body
    message = pb.ListSessionsRequest()
    response = await _unary(request, "ListSessions", message, pb.ListSessionsResponse)
    found = _json(response)
    return JSONResponse({"object": "list", "data": found["sessions"], "limit": found["limit"]})


@routes.post("/forget")
@requires(Role.USER)
async def forget(request: Request, body: ForgetBody) -> Response:
    """Forget a document or a session."""
    message = pb.ForgetRequest(**body.model_dump())
    response = await _unary(request, "Forget", message, pb.ForgetResponse)
    return JSONResponse({"object": "memory.forgotten", **_json(response)})


async def _messages(body: IngestBody) -> AsyncIterator[bytes]:
    head = pb.IngestHead(session=body.session, document=body.document, offset=body.offset)
    if body.budget_bytes is not None:
        head.budget_bytes = body.budget_bytes
    yield pb.IngestRequest(head=head).SerializeToString()
    for at in range(0, len(body.text), PART_CHARS):
        text = body.text[at : at + PART_CHARS]
        yield pb.IngestRequest(text=text).SerializeToString()
    if body.end:
        yield pb.IngestRequest(end=True).SerializeToString()


async def _last_progress(call: Any) -> pb.IngestResponse:
    """Return the last progress, with the tokens of all parts of the request."""
    last, tokens, admitted = pb.IngestResponse(), 0, admission.get()
    async for raw in call:
        last = pb.IngestResponse.FromString(raw)
        tokens += last.tokens
        if admitted is not None and admitted.counts_tokens:
            admitted.charge(last.tokens)
    last.tokens = tokens
    return last


async def _answer(responses: AsyncGenerator[bytes]) -> dict[str, Any]:
    citations: list[dict[str, Any]] = []
    outcome: dict[str, Any] = {}
    async with aclosing(responses):
        async for raw in responses:
            response = pb.QueryResponse.FromString(raw)
            if response.HasField("span"):
                citations.append(_json(response.span))
            else:
                outcome = _json(response.outcome)
    return {"object": "memory.answer", **outcome, "citations": citations}


async def _events(first: bytes | None, responses: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield an event for each response; an error is the last event, without ``[DONE]``."""
    async with aclosing(responses):
        try:
            raw = first
            while raw is not None:
                yield encode_event(_json(pb.QueryResponse.FromString(raw)))
                raw = await anext(responses, None)
        except grpc.RpcError as err:
            yield encode_event({"error": from_rpc(err).body})
            return
    yield DONE


async def _unary(request: Request, method: str, message: Message, response: Any) -> Any:
    call = _stub(request).unary(
        f"/{_SERVICE}/{method}",
        message.SerializeToString(),
        timeout_s=state_of(request).settings.request_timeout_s,
        metadata=outgoing_metadata(),
    )
    with _session_errors():
        return response.FromString(await until_disconnect(request.receive, call))


@contextmanager
def _session_errors() -> Iterator[None]:
    """Name the session in the error about one that does not exist; on other routes it is a model.

    Raises:
        ApiError: There is no such session, or no such reader.
    """
    try:
        yield
    except grpc.RpcError as err:
        error = from_rpc(err)
        if error.status == HTTPStatus.NOT_FOUND and error.body["message"].startswith("session: "):
            error.body.update(code="session_not_found", param="session")
            raise error from err
        raise


def _stub(request: Request) -> Any:
    return _mission(request).router.stub(session_of(request.headers), logs.request_id.get())


def _mission(request: Request) -> MissionClient:
    missions = state_of(request).missions
    if MISSION not in missions:
        raise ApiError(
            404,
            "mission: this fleet has no mission 'memory'; add it to BEM_GATEWAY_MISSIONS",
            code="mission_not_found",
            param="mission",
        )
    return missions[MISSION]


def _json(message: Message) -> dict[str, Any]:
    """Return a message as JSON with numbers as numbers, which protobuf writes as strings."""
    converted = to_json(message)
    for part in _objects(converted):
        for name in _INTEGERS:
            if isinstance(part.get(name), str):
                part[name] = int(part[name])
    return converted


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [one for item in value for one in _objects(item)]
    if isinstance(value, dict):
        return [value, *(one for item in value.values() for one in _objects(item))]
    return []
