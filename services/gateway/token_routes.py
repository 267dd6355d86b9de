"""Token routes in vLLM's form, ``/tokenize`` and ``/detokenize``, and texts of token prompts."""

from __future__ import annotations  # gRPC's classes are generic in the stubs only

from collections.abc import Sequence
from typing import Annotated, Any

import grpc
from bem_fleet.services.gateway.body_route import JsonBodyRoute
from bem_fleet.services.gateway.canary_routing import CanaryStub
from bem_fleet.services.gateway.errors import ApiError, from_rpc
from bem_fleet.services.gateway.generation import SERVICE, router_requests
from bem_fleet.services.gateway.openai_fields import OpenAIBody, only
from bem_fleet.services.gateway.openai_schema import ChatRequest, CompletionRequest, TokenId
from bem_fleet.services.gateway.request_context import session_of
from bem_fleet.services.gateway.route_roles import requires
from bem_fleet.services.gateway.state import state_of
from bemfleet.router.v1 import router_pb2 as pb
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fleet import logs
from fleet.access import Role
from fleet.clients import outgoing_metadata
from pydantic import Field, ValidationError, model_validator

MAX_IDS = 1_048_576
routes = APIRouter(route_class=JsonBodyRoute)
_TOKENIZE, _DETOKENIZE = f"/{SERVICE}/Tokenize", f"/{SERVICE}/Detokenize"
_TIMEOUT_S = 30.0


class TokenizeBody(OpenAIBody):
    """Body of ``POST /tokenize``: a prompt, or messages as in a chat with its tools."""

    model: str = Field("", max_length=256)
    prompt: str | None = Field(None, min_length=1)
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None
    add_special_tokens: bool | None = None
    chat_template: Annotated[Any, only()] = None
    chat_template_kwargs: Annotated[Any, only({})] = None

    @model_validator(mode="after")
    def _has_one_input(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give a prompt or messages, and not both")
        # The fleet adds what the model was trained with: to a prompt the begin token, to messages
        # what the template writes.
        if self.add_special_tokens not in (None, self.messages is None):
            raise ValueError("add_special_tokens is not served with this value; leave it out")
        return self

    def request(self) -> pb.GenerateRequest:
        """Return the router's request with this prompt.

        Raises:
            ValidationError: A message or a tool is malformed.
        """
        given = self.model_dump(exclude_none=True)
        own = ("prompt", "messages", "tools", "add_generation_prompt", "continue_final_message")
        shared = {name: given[name] for name in own if name in given}
        kind: type[ChatRequest | CompletionRequest] = (
            CompletionRequest if self.messages is None else ChatRequest
        )
        (request,) = router_requests(kind.model_validate({"model": self.model or "-", **shared}))
        request.model = self.model
        return request


class DetokenizeBody(OpenAIBody):
    """Body of ``POST /detokenize``."""

    model: str = Field("", max_length=256)
    tokens: list[TokenId] = Field(max_length=MAX_IDS)


@routes.post("/tokenize")
@requires(Role.USER)
async def tokenize(request: Request, body: TokenizeBody) -> JSONResponse:
    """Return the token ids of a prompt or conversation."""
    try:
        prompt = body.request()
    except ValidationError as err:
        raise RequestValidationError(err.errors()) from err
    wanted = pb.TokenizeRequest(
        request=prompt, with_bytes=bool(body.return_token_strs)
    ).SerializeToString()
    try:
        raw = await _stub(request).stable_unary(
            _TOKENIZE, wanted, timeout_s=_TIMEOUT_S, metadata=outgoing_metadata()
        )
    except grpc.RpcError as err:
        raise from_rpc(err) from err
    answer = pb.TokenizeResponse.FromString(raw)
    names = [one.decode(errors="backslashreplace") for one in answer.tokens]
    return JSONResponse(
        {
            "count": len(answer.ids),
            "max_model_len": answer.context_tokens,
            "tokens": list(answer.ids),
            "token_strs": names if body.return_token_strs else None,
        }
    )


@routes.post("/detokenize")
@requires(Role.USER)
async def detokenize(request: Request, body: DetokenizeBody) -> JSONResponse:
    """Return the text of token ids."""
    try:
        text = await _text_of(_stub(request), body.tokens)
    except grpc.RpcError as err:
        error = from_rpc(err)
        error.rename("ids", "tokens")
        raise error from err
    return JSONResponse({"prompt": text})


async def add_prompt_texts(stub: CanaryStub, requests: Sequence[pb.GenerateRequest]) -> None:
    """Give each request with token ids the text of its prompt, which the sidecar judges.

    Args:
        stub: Stub of the mission.
        requests: Requests of the choices; those of one prompt follow one another.

    Raises:
        ApiError: The model has no such token.
        grpc.RpcError: A call failed.
    """
    latest: tuple[list[int], str] = ([], "")
    for request in requests:
        if not request.prompt_ids:
            continue
        ids = list(request.prompt_ids)
        if ids != latest[0]:
            try:
                latest = (ids, await _text_of(stub, ids))
            except grpc.RpcError as err:
                error = from_rpc(err)
                if error.body["param"] != "ids":
                    raise
                error.rename("ids", "prompt")
                raise error from err
        if not latest[1]:
            raise ApiError(
                400, "prompt: its tokens have no text", code="invalid_value", param="prompt"
            )
        request.prompt = latest[1]


async def _text_of(stub: CanaryStub, ids: Sequence[int]) -> str:
    raw = await stub.stable_unary(
        _DETOKENIZE,
        pb.DetokenizeRequest(ids=ids).SerializeToString(),
        timeout_s=_TIMEOUT_S,
        metadata=outgoing_metadata(),
    )
    return pb.DetokenizeResponse.FromString(raw).text


def _stub(request: Request) -> CanaryStub:
    session = session_of(request.headers, None)
    return state_of(request).openai_mission.router.stub(session, logs.request_id.get())
