"""OpenAI-compatible route of embeddings, which mission sep computes.

Numbers leave as JSON floats, or as little-endian float32 in base64, which official clients ask for.
"""

import array
import base64
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.missions import MissionClient
from bem_fleet.services.gateway.openai_fields import OpenAIBody, as_prompts
from bem_fleet.services.gateway.openai_schema import TokenId
from bem_fleet.services.gateway.request_context import session_of, until_disconnect
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bemfleet.sep.v1 import sep_pb2 as pb
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from fleet import logs, wire
from fleet.access import Role
from fleet.clients import outgoing_metadata
from pydantic import BeforeValidator, Field

routes = APIRouter(prefix="/v1", route_class=JsonBodyRoute)

MISSION = "sep"
MAX_INPUTS = 2048
"""Texts of one request, OpenAI's limit."""

PART_INPUTS = 64
"""Texts of one call to the mission."""

_PATH = f"/{pb.DESCRIPTOR.services_by_name['SepService'].full_name}/Embed"
_INPUTS = "inputs"
_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[TokenId], Field(min_length=1)]


class EmbeddingRequest(OpenAIBody):
    """Body of ``POST /v1/embeddings``."""

    model: str = Field(min_length=1, max_length=256)
    input: Annotated[
        Annotated[list[_Text] | list[_Ids], Field(min_length=1, max_length=MAX_INPUTS)],
        BeforeValidator(as_prompts),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    user: str | None = Field(None, max_length=256)


@routes.post("/embeddings")
@requires(Role.USER)
async def embeddings(request: Request, body: EmbeddingRequest) -> JSONResponse:
    """Return the embedding of each text."""
    stub = _mission(request).router.stub(
        session_of(request.headers, body.user), logs.request_id.get()
    )
    data: list[dict[str, Any]] = []
    tokens = 0
    for at in range(0, len(body.input), PART_INPUTS):
        call = stub.unary(
            _PATH,
            mission_request(body, at).SerializeToString(),
            timeout_s=state_of(request).settings.request_timeout_s,
            metadata=outgoing_metadata(),
        )
        try:
            answer = pb.EmbedResponse.FromString(await until_disconnect(request.receive, call))
        except grpc.RpcError as err:
            raise embedding_error(err, at) from err
        tokens += answer.prompt_tokens
        data += [
            {
                "object": "embedding",
                "index": at + place,
                "embedding": encode_values(one.values, body.encoding_format),
            }
            for place, one in enumerate(answer.embeddings)
        ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    found = {"object": "list", "data": data, "model": body.model, "usage": usage}
    return JSONResponse(found, headers={wire.TRACK: stub.track})


def mission_request(body: EmbeddingRequest, at: int) -> pb.EmbedRequest:
    """Return the mission's request for the texts from number ``at`` on, at most ``PART_INPUTS``."""
    message = pb.EmbedRequest(model=body.model)
    if body.dimensions is not None:
        message.dimensions = body.dimensions
    for one in body.input[at : at + PART_INPUTS]:
        if isinstance(one, str):
            message.inputs.add(text=one)
        else:
            message.inputs.add(tokens=pb.TokenIds(ids=one))
    return message


def encode_values(values: Sequence[float], encoding: str | None) -> list[float] | str:
    """Return the values as numbers, or as little-endian float32 in base64."""
    if encoding != "base64":
        return list(values)
    numbers = array.array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def embedding_error(err: grpc.RpcError, at: int) -> ApiError:
    """Return the HTTP error of a failed call; it names the field that the caller sent.

    Args:
        err: Error of the mission.
        at: Number of the call's first text.
    """
    error = from_rpc(err)
    param = str(error.body["param"] or "")
    name, _, number = param.partition(".")
    if name == _INPUTS:
        error.rename(param, f"input.{at + int(number)}" if number else "input")
    return error


def _mission(request: Request) -> MissionClient:
    missions = state_of(request).missions
    if MISSION not in missions:
        raise ApiError(
            404,
            "mission: this fleet has no mission 'sep'; add it to BEM_GATEWAY_MISSIONS",
            code="mission_not_found",
            param="mission",
        )
    return missions[MISSION]
