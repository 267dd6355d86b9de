"""Generic mission routes: any unary or server-streaming method over HTTP, as JSON.

``POST /v1/missions/{mission}/{method}`` transcodes the body to the method's request message by the
mission's reflection, calls the method through the canary split, and returns the response as JSON or
as server-sent events. A new mission needs nothing here but its entry in the setting ``missions``.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from bem_fleet.services.gateway.access_control import require_role
from bem_fleet.services.gateway.body_route import require_json
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.event_stream import DONE, EventStreamResponse, encode_event
from bem_fleet.services.gateway.method_fields import MethodFields
from bem_fleet.services.gateway.missions import MissionClient
from bem_fleet.services.gateway.request_context import session_of, until_disconnect
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bem_fleet.services.gateway.transcoding import parse_json, to_json
from bemfleet.mission.v1 import mission_pb2
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fleet import logs, wire
from fleet.access import Role
from fleet.access.method_roles import method_role
from fleet.clients import outgoing_metadata
from fleet.errors import NotFoundError

routes = APIRouter(prefix="/v1/missions")


@routes.get("")
@requires(Role.USER)
async def list_missions(request: Request) -> JSONResponse:
    """List the missions with their methods; a mission that is away has a reason instead."""
    missions = state_of(request).missions.values()
    descriptions = await asyncio.gather(*(_description(mission) for mission in missions))
    return JSONResponse({"object": "list", "data": descriptions})


@routes.get("/{mission}")
@requires(Role.USER)
async def get_mission(request: Request, mission: str) -> JSONResponse:
    """Describe one mission."""
    return JSONResponse(await _description(_mission(request, mission)))


@routes.post("/{mission}/{method}")
@requires(Role.USER, of_method=True)
async def call_method(request: Request, mission: str, method: str) -> Response:
    """Call a method of the mission's own service."""
    client = _mission(request, mission)
    require_json(request.headers.get("content-type", ""))
    body = await request.body()
    try:
        fields = await until_disconnect(request.receive, client.method(method))
    except NotFoundError as err:
        raise ApiError(404, str(err), code="method_not_found", param="method") from err
    require_role(state_of(request).access, method_role(fields.method), fields.path)
    if fields.method.client_streaming:
        raise ApiError(
            400,
            f"method: {method} takes a stream of requests, which HTTP cannot send; call it by gRPC",
            code="client_streaming_unsupported",
            param="method",
        )
    message = parse_json(body, fields.request).SerializeToString()
    stub = client.router.stub(session_of(request.headers), logs.request_id.get())
    timeout_s = state_of(request).settings.request_timeout_s
    if fields.streams_responses:
        return await _stream(request, stub, fields, message, timeout_s)
    call = stub.unary(fields.path, message, timeout_s=timeout_s, metadata=outgoing_metadata())
    response = await until_disconnect(request.receive, call)
    return JSONResponse(
        to_json(fields.response.FromString(response)), headers={wire.TRACK: stub.track}
    )


async def _stream(
    request: Request, stub: CanaryStub, fields: MethodFields, message: bytes, timeout_s: float
) -> Response:
    responses = stub.stream(fields.path, message, timeout_s=timeout_s, metadata=outgoing_metadata())
    # Before the HTTP response begins, so that an early error still has its status.
    first = await until_disconnect(request.receive, anext(responses, None))
    streamed = EventStreamResponse(_events(fields, first, responses))
    streamed.headers[wire.TRACK] = stub.track
    return streamed


async def _events(
    fields: MethodFields, first: bytes | None, responses: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """Yield an event per response; an error is the last event, without ``[DONE]``."""
    async with aclosing(responses):
        try:
            response = first
            while response is not None:
                yield encode_event(to_json(fields.response.FromString(response)))
                response = await anext(responses, None)
        except grpc.RpcError as err:
            yield encode_event({"error": from_rpc(err).body})
            return
    yield DONE


def _mission(request: Request, name: str) -> MissionClient:
    missions = state_of(request).missions
    if name not in missions:
        raise ApiError(
            404,
            f"mission: {name!r} does not exist; missions: {', '.join(sorted(missions))}; "
            "name one of them",
            code="mission_not_found",
            param="mission",
        )
    return missions[name]


async def _description(mission: MissionClient) -> dict[str, Any]:
    head = {"id": mission.name, "object": "mission"}
    try:
        described = await mission.describe()
    except grpc.RpcError as err:
        return {**head, "status": "unavailable", "reason": from_rpc(err).body["message"]}
    return {
        **head,
        "status": "serving",
        "version": described.version,
        "base_model": described.base_model,
        "base_model_digest": described.base_model_digest,
        "weights": described.weights,
        "service": described.service,
        "methods": [_method(method) for method in described.methods],
        "warnings": list(described.warnings),
    }


def _method(method: mission_pb2.MethodDescription) -> dict[str, Any]:
    return {
        "name": method.name.rpartition("/")[2],
        "path": method.name,
        "client_streaming": method.client_streaming,
        "server_streaming": method.server_streaming,
        "model_field": method.model_field,
        "text_fields": list(method.text_fields),
    }
