"""Responses API routes: text and function calls, as one object or as OpenAI's events.

A response is answered as a chat. Its conversation is kept for the caller's key, so that a later
request continues it by ``previous_response_id``. What is kept of an answer left the sidecar.
"""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bem_fleet.services.gateway.errors import ApiError
from bem_fleet.services.gateway.event_stream import EventStreamResponse
from bem_fleet.services.gateway.generation import (
    ChoiceDelta,
    complete_choices,
    router_requests,
    stream_choices,
)
from bem_fleet.services.gateway.openai_errors import completion_error
from bem_fleet.services.gateway.openai_schema import ChatRequest
from bem_fleet.services.gateway.request_context import session_of, until_disconnect
from bem_fleet.services.gateway.responses_events import ResponseWriter
from bem_fleet.services.gateway.responses_input import Turn, conversation
from bem_fleet.services.gateway.responses_schema import ResponsesRequest, own_field
from bem_fleet.services.gateway.responses_store import ResponseStore, StoredResponse
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import GatewayState, state_of
from bem_fleet.services.gateway.withheld import content_filter_headers
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet import logs, wire
from fleet.access import Principal, Role, principal
from fleet.errors import UnavailableError
from prometheus_client import Counter

routes = APIRouter(prefix="/v1")
creation = APIRouter(route_class=JsonBodyRoute)
_LOG = logs.get("gateway.responses")
LOST = Counter("bem_gateway_responses_lost_total", "Responses that Redis did not keep.")


@dataclass(frozen=True)
class _Exchange:
    """Request that is answered, and what is kept of it.

    Attributes:
        store: Store of responses.
        owner: Caller, whose key the response is kept for.
        chat: Conversation that answers the request.
        turns: Messages of the conversation without instructions.
        writer: Writer of the response.
    """

    store: ResponseStore
    owner: Principal
    chat: ChatRequest
    turns: list[Turn]
    writer: ResponseWriter

    async def keep(self) -> None:
        """Keep a response that asks for it; one that Redis does not take is answered anyway."""
        response = self.writer.response()
        if not response["store"]:
            return
        stored = StoredResponse([*self.turns, self.writer.items.turn()], response)
        try:
            await self.store.add(self.owner, self.writer.identifier, stored)
        except UnavailableError as err:
            LOST.inc()
            _LOG.warning("a response was not kept", reason=str(err)[:200])
            self.writer.forget()


@creation.post("/responses")
@requires(Role.USER)
async def create_response(request: Request, body: ResponsesRequest) -> Response:
    """Answer an input, and keep the conversation unless ``store`` is false."""
    state = state_of(request)
    turns = conversation(await _earlier_turns(state, body.previous_response_id), body.input)
    writer = ResponseWriter(body, stored=body.store is not False and state.responses.enabled)
    exchange = _Exchange(state.responses, principal.get(), body.chat(turns), turns, writer)
    session = session_of(request.headers, body.user)
    calls = router_requests(exchange.chat, session)
    stub = state.openai_mission.router.stub(session, logs.request_id.get())
    timeout_s = state.settings.request_timeout_s
    try:
        if body.stream:
            deltas = stream_choices(stub, calls, timeout_s, concurrency=1)
            first = await until_disconnect(request.receive, anext(deltas))
            events = _events(exchange, first, deltas)
            return _with_headers(EventStreamResponse(events), stub, first)
        (answer,) = await complete_choices(request, stub, calls, timeout_s, concurrency=1)
    except grpc.RpcError as err:
        raise _own_error(err, exchange.chat) from err
    writer.add(answer)
    await exchange.keep()
    return _with_headers(JSONResponse(writer.response()), stub, answer)


routes.include_router(creation)


@routes.get("/responses/{identifier}")
@requires(Role.USER)
async def get_response(request: Request, identifier: str) -> JSONResponse:
    """Return a response that was kept for the caller's key."""
    found = await state_of(request).responses.find(principal.get(), identifier)
    if found is None:
        raise _not_found(identifier, 404, "response_id")
    return JSONResponse(found.response)


@routes.delete("/responses/{identifier}")
@requires(Role.USER)
async def delete_response(request: Request, identifier: str) -> JSONResponse:
    """Remove a response of the caller's key; later ones keep their own conversations."""
    if not await state_of(request).responses.remove(principal.get(), identifier):
        raise _not_found(identifier, 404, "response_id")
    return JSONResponse({"id": identifier, "object": "response", "deleted": True})


async def _earlier_turns(state: GatewayState, identifier: str | None) -> Sequence[Turn]:
    if identifier is None:
        return ()
    found = await state.responses.find(principal.get(), identifier)
    if found is None:
        raise _not_found(identifier, 400, "previous_response_id")
    return found.turns


def _not_found(identifier: str, status: int, param: str) -> ApiError:
    return ApiError(
        status,
        f"{param}: no response {identifier[:80]!r} is kept for this key; responses end after a "
        "time, and `store: false` keeps none; send the conversation as input",
        code="previous_response_not_found" if status == 400 else "not_found",
        param=param,
    )


async def _events(
    exchange: _Exchange, first: ChoiceDelta, deltas: AsyncGenerator[ChoiceDelta]
) -> AsyncGenerator[bytes]:
    """Yield the events of a streamed response; an error is the last one."""
    writer = exchange.writer
    opening = writer.opening()
    async with aclosing(deltas):
        delta = first
        try:
            while True:
                event = writer.event(delta)
                if delta.finish_reason:
                    break
                if opening or event:
                    yield opening + event
                opening = b""
                delta = await anext(deltas)
        except grpc.RpcError as err:
            yield opening + writer.failure(_own_error(err, exchange.chat).body)
            return
    await exchange.keep()
    yield opening + event + writer.closing()


def _own_error(err: grpc.RpcError, chat: ChatRequest) -> ApiError:
    """Return the HTTP error, which names the field of this API."""
    error = completion_error(err, chat)
    if param := error.body["param"]:
        error.rename(param, own_field(str(param)))
    return error


def _with_headers(response: Any, stub: CanaryStub, first: ChoiceDelta) -> Response:
    response.headers[wire.TRACK] = stub.track
    response.headers.update(content_filter_headers([(first.index, first.withheld)]))
    answered: Response = response
    return answered
